"""The pages of the documentation, held against what happens when a reader does what they say."""
