"""Whether the Hugging Face hub can be reached."""

from functools import cache

from htmuon.recipes.extras import require

NOT_REACHED = "is on the Hugging Face hub, which does not answer from here"
# The hub's own clients try for half a minute and more before they give up.
_PATIENCE_SECONDS = 10.0


@cache
def hub_answers() -> bool:
    """Whether the hub, or the mirror that HF_ENDPOINT names, answers one request; asked once in a process."""
    hub = require("huggingface_hub")
    if hub.constants.is_offline_mode():
        return False
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=_PATIENCE_SECONDS)
    # Whichever HTTP library the session is of: no name, no route, no certificate, no time.
    except Exception:
        return False
    return True
