"""The panel for pyramid_debugtoolbar: what happened to the session, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exceptions import ConfigurationError
from ..trace import TRACES, Note, Trace

try:
    import pyramid_debugtoolbar
except ImportError:  # pragma: no cover - depends on what is installed
    pyramid_debugtoolbar = None

if TYPE_CHECKING or pyramid_debugtoolbar is None:  # pragma: no cover
    # It's for type checkers as well: the toolbar has no types.
    DebugPanel = object
else:
    from pyramid_debugtoolbar.panels import DebugPanel

__all__ = ["includeme"]

_PANELS = "debugtoolbar.extra_panels"


class StoredSessionPanel(DebugPanel):
    """Shows what a request did with its session, what happened to it, and why.

    It shows what the session itself has noted. It doesn't load the session, or write.
    """

    name = "stored_session"
    title = "Stored session"
    nav_title = title
    has_content = True
    template = "pyramid_sqlalchemy_sessions.debugtoolbar:panel.dbtmako"

    def __init__(self, request: Any):
        # The attempts of pyramid_retry share one environ, and so one list.
        self._traces: list[Trace] = request.environ.setdefault(TRACES, [])
        self.data: dict[str, Any] = {"traces": self._traces}

    @property
    def _fate(self) -> Note | None:
        fates = [fate for trace in self._traces for fate in trace.fates]
        return fates[-1] if fates else None

    @property
    def nav_subtitle(self) -> str:
        return self._fate.label if self._fate else ""

    @property
    def nav_subtitle_style(self) -> str:
        return f"progress-bar-{self._fate.style}" if self._fate else ""


def includeme(config: Any) -> None:
    """Add the panel "Stored session" to pyramid_debugtoolbar, which this includes.

    You can also list it in ``debugtoolbar.includes``. Raises ConfigurationError if
    pyramid_debugtoolbar isn't installed.
    """
    if pyramid_debugtoolbar is None:
        raise ConfigurationError(
            "pyramid_sqlalchemy_sessions.debugtoolbar needs pyramid_debugtoolbar, which"
            ' is not installed: pip install "pyramid_sqlalchemy_sessions[toolbar]>=1.0"'
        )
    if hasattr(config, "add_debugtoolbar_panel"):  # the toolbar's own configuration
        config.add_debugtoolbar_panel(StoredSessionPanel)
        return
    config.include("pyramid_debugtoolbar")
    settings: dict[str, Any] = config.get_settings()
    settings[_PANELS] = [*settings[_PANELS], StoredSessionPanel]
