"""What `gateway <command>` does, a module a command. Heavy imports wait until a command runs, so that help is quick."""
