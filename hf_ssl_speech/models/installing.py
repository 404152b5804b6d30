"""How users install this package: the command in cards, and the module beside our checkpoints."""

# Address of the Git repository (https://...) that people install from: the only place to fill in when the package is
# published. Until then the command installs a checkout.
REPOSITORY = ""


def install_command() -> str:
    """The shell command that installs this package from where it is published."""
    if REPOSITORY:
        return f'pip install "hf_ssl_speech @ git+{REPOSITORY}"'
    return "pip install ./hf_ssl_speech  # the folder of its sources: there is no registered package yet"


def auto_module() -> str:
    """The module beside a checkpoint that `from_pretrained(..., trust_remote_code=True)` imports.

    Its import stands in a `try`, so that the error says how to install the package; transformers would tell users to
    `pip install` a name that no registry has.
    """
    return f"""try:
    from hf_ssl_speech import *  # noqa: F403
except ImportError as error:
    raise ImportError({f"This model needs the package hf_ssl_speech: {install_command()}"!r}) from error
"""
