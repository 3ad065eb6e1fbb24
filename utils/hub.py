"""The Hugging Face hub: whether it answers."""

import urllib.error
import urllib.request
from http.client import HTTPException

TIMEOUT = 5  # seconds


def hub_reachable() -> bool:
    """Return within seconds whether the hub answers; huggingface_hub alone would retry for half a minute.

    The hub is ``HF_ENDPOINT``, or https://huggingface.co. With ``HF_HUB_OFFLINE=1``, return False without connecting.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # the hub answered
    except (OSError, HTTPException, ValueError):  # ValueError: not a URL
        return False
    return True
