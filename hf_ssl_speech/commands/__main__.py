"""`python -m hf_ssl_speech.commands`: what Accelerate's launcher starts in every process."""

from hf_ssl_speech.commands.main import main

if __name__ == "__main__":
    main()
