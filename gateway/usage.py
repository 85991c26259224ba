"""A provider's usage object -> disjoint token buckets. Pure."""

from typing import NamedTuple


class Usage(NamedTuple):
    """What a call consumed. Buckets are disjoint: `cached_input` is no part of `uncached_input`, `reasoning` none of
    `text_output`. Tokens, except `image_units`, which counts images."""

    uncached_input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    audio_input: int = 0
    image_input: int = 0
    text_output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    image_units: int = 0

    @property
    def input_tokens(self) -> int:
        """OpenAI's inclusive total."""
        return self.uncached_input + self.cached_input + self.cache_write + self.audio_input + self.image_input

    @property
    def output_tokens(self) -> int:
        """OpenAI's inclusive total."""
        return self.text_output + self.reasoning + self.audio_output + self.image_output


NO_USAGE = Usage()
