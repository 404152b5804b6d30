"""The command `hf-ssl-speech`, and its parts: one file for each subcommand, which the scripts in examples/ run too."""
