try:
    from hf_ssl_speech import *  # noqa: F403
except ImportError as error:
    raise ImportError('This model needs the package hf_ssl_speech: pip install ./hf_ssl_speech  # the folder of its sources: there is no registered package yet') from error
