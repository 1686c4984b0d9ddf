"""The secret key: the command that makes one, and that nobody is shown it."""

from __future__ import annotations

import copy
import pickle
import runpy
import subprocess
import sys
from base64 import urlsafe_b64decode
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pyramid.config import Configurator
from sqlalchemy import Engine

from pyramid_sqlalchemy_sessions import (
    AESGCMSerializer,
    ConfigurationError,
    secret,
    session_factory_from_settings,
)
from tests.application import SECRET, Application, Browser, Full

CHECKOUT = Path(__file__).resolve().parent.parent


def test_console_script():
    """The command is installed."""
    (script,) = entry_points(group="console_scripts", name="pyramid_session_secret")
    assert script.load() is secret.main


@pytest.mark.parametrize("size", [16, 24, 32])
def test_command_prints_a_key(size, capsys):
    """What the command prints is a key of the size that was asked for."""
    assert secret.main(["--size", str(size)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert len(urlsafe_b64decode(line)) == size
    settings = {"session.secret_key": line, "session.model_class": Full}
    assert session_factory_from_settings(settings, lambda name: name)


def test_command_draws_a_new_key_each_time(capsys):
    """No two keys are the same; unless told otherwise, a key is one of 32 bytes."""
    assert secret.main([]) == secret.main([]) == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one != other
    assert len(one) == len(other) == len(SECRET)


def test_module_is_a_command():
    """``python -m`` runs the command, without a warning."""
    name = "pyramid_sqlalchemy_sessions.secret"
    command = [sys.executable, "-m", name, "--size", "16"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(urlsafe_b64decode(done.stdout)) == 16


@pytest.mark.parametrize("name", ["check", "gc", "secret"])
def test_every_module_of_a_command_is_one(name, monkeypatch):
    """No module of a command does nothing and reports success."""
    module = f"pyramid_sqlalchemy_sessions.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "argv", [name, "--unknown"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module(module, run_name="__main__")
    assert exit.value.code == 2


def test_wrong_usage(capsys):
    """There are no keys of other sizes."""
    with pytest.raises(SystemExit) as exit:
        secret.main(["--size", "20"])
    assert exit.value.code == 2
    assert "32" in capsys.readouterr().err


# Nobody is shown the secret.


def test_hidden_text_is_what_it_was():
    """Whoever reads a hidden text gets it, also from a copy or a pickle."""
    hidden = secret.HiddenText(SECRET)
    for text in (hidden, copy.deepcopy(hidden), pickle.loads(pickle.dumps(hidden))):
        assert text == SECRET
        assert text.split() == [SECRET]
        assert "".join([text]) == SECRET


def test_hidden_text_does_not_show():
    """Nobody who prints a hidden text gets it."""
    hidden = secret.HiddenText(SECRET)
    shown = [repr(hidden), str(hidden), f"{hidden}", f"{hidden:>20}"]
    shown += [repr({"key": hidden}), "%s %r" % (hidden, hidden)]  # noqa: UP031
    assert [each for each in shown if SECRET in each or "hidden" not in each] == []


def test_settings_hide_the_secret(sqlite_engine: Engine):
    """After the include the settings do not show the key, and can be read again."""
    application = Application(sqlite_engine)
    settings = application.registry.settings
    assert SECRET not in repr(settings)
    assert settings["session.secret_key"] == SECRET
    other = session_factory_from_settings(settings, lambda name: name)
    assert other.model_class is Full


def test_debugtoolbar_does_not_show_the_secret(sqlite_engine: Engine):
    """No panel of pyramid_debugtoolbar shows the key, that of the settings included."""
    pytest.importorskip("pyramid_debugtoolbar")
    Full.metadata.create_all(sqlite_engine)

    def configure(config: Configurator) -> None:
        config.include("pyramid_debugtoolbar")

    application = Application(sqlite_engine, configure=configure)
    browser = Browser(application, REMOTE_ADDR="127.0.0.1")
    browser.visit(lambda request: request.session.update(a=1))
    shown = browser.get("/_debug_toolbar/").text
    assert "session.secret_key" in shown
    assert "(hidden)" in shown
    assert "Full in session" in shown
    assert SECRET not in shown


def test_introspection_tells_of_the_sessions(sqlite_engine: Engine):
    """Pyramid's introspection knows model, cookie and features, and not the key."""
    application = Application(sqlite_engine, cookie_name="sid")
    introspector = application.registry.introspector
    (told,) = [each["introspectable"] for each in introspector.get_category("sessions")]
    assert told["model_class"] is Full
    assert told["cookie_name"] == "sid"
    assert told["mixins"] == ("UseridMixin", "CSRFMixin")
    assert told["settings"].cookie_name == "sid"
    assert told.title == "Full in sid"
    assert SECRET not in repr(dict(told))
    assert not any(isinstance(each, AESGCMSerializer) for each in told.values())


@pytest.mark.parametrize("is_in_ini", [False, True])
def test_key_in_the_environment(monkeypatch, is_in_ini):
    """It's used instead of that of the ini file, also after the application's settings
    were copied."""
    monkeypatch.setenv("SESSION_KEY", SECRET)
    settings = {"session.model_class": Full}
    if is_in_ini:
        settings["session.secret_key"] = "to be replaced"
    with Configurator(settings=settings) as config:
        config.include("docs.examples.environment")
    monkeypatch.delenv("SESSION_KEY")
    with (
        pytest.raises(ConfigurationError, match="secret_key is missing"),
        Configurator(settings={"session.model_class": Full}) as config,
    ):
        config.include("docs.examples.environment")
