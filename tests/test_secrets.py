import hmac
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load_settings
from gateway.errors import ConfigError
from gateway.secrets import ADMIN_KEY_PREFIX, VIRTUAL_KEY_PREFIX, Secrets, load_secrets, make_key

ROOT = b"a-root-secret-of-enough-characters"


def settings_in(folder: Path, **fields: object):
    return load_settings(data_dir=folder, **fields)


def test_keys_have_the_documented_shape():
    assert re.fullmatch(r"sk-gw-[A-Za-z0-9]{12}-[A-Za-z0-9]{48}", make_key(VIRTUAL_KEY_PREFIX).text)
    assert re.fullmatch(r"sk-gwadmin-[A-Za-z0-9]{12}-[A-Za-z0-9]{48}", make_key(ADMIN_KEY_PREFIX).text)


def test_a_key_shows_its_public_parts_only():
    key = make_key(VIRTUAL_KEY_PREFIX)
    assert key.text.split("-")[2] == key.id
    assert key.text.endswith(key.last4)
    assert key.text not in f"{key!r} {key}"


def test_keys_differ():
    assert len({make_key(VIRTUAL_KEY_PREFIX).text for _ in range(200)}) == 200


def test_each_purpose_has_a_key_of_its_own():
    secrets = Secrets(ROOT)
    keys = {secrets.hmac_key(purpose) for purpose in ("virtual-keys", "admin-keys", "fingerprint")}
    assert len(keys) == 3
    assert all(len(key) == 32 for key in keys)
    assert ROOT not in keys


def test_digests_depend_on_root_purpose_and_every_character():
    secrets = Secrets(ROOT)
    digest = secrets.digest("virtual-keys", "sk-gw-abc")
    assert digest == Secrets(ROOT).digest("virtual-keys", "sk-gw-abc")
    assert digest != Secrets(ROOT + b"x").digest("virtual-keys", "sk-gw-abc")
    assert digest != secrets.digest("admin-keys", "sk-gw-abc")
    assert digest != secrets.digest("virtual-keys", "sk-gw-abd")


@given(st.binary(max_size=300))
def test_the_quick_hasher_is_hmac_sha256(message):
    secrets = Secrets(ROOT)
    assert secrets.hasher("virtual-keys")(message) == hmac.digest(secrets.hmac_key("virtual-keys"), message, "sha256")


def test_the_root_shows_in_no_repr():
    assert ROOT.decode() not in f"{Secrets(ROOT)!r} {Secrets(ROOT)}"


def test_the_first_start_makes_a_private_file_and_later_ones_read_it(tmp_path):
    folder = tmp_path / "data"
    first = load_secrets(settings_in(folder))
    file = folder / "secret"
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert re.fullmatch(r"[0-9a-f]{64}\n", file.read_text())
    assert load_secrets(settings_in(folder)).fingerprint == first.fingerprint
    assert [path.name for path in folder.iterdir()] == ["secret"]


def test_the_files_text_in_the_setting_is_the_same_root(tmp_path):
    from_file = load_secrets(settings_in(tmp_path))
    from_setting = load_secrets(settings_in(tmp_path / "other", secret=(tmp_path / "secret").read_text()))
    assert from_setting.fingerprint == from_file.fingerprint


def test_with_the_setting_no_file_is_made(tmp_path):
    load_secrets(settings_in(tmp_path, secret=ROOT.decode()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    load_secrets(settings_in(tmp_path))
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_secrets(settings_in(tmp_path))


@pytest.mark.parametrize("content", ["", "\n", "abc"])
def test_an_empty_or_cut_file_is_refused_not_replaced(tmp_path, content):
    file = tmp_path / "secret"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="restore it from a backup"):
        load_secrets(settings_in(tmp_path))
    assert file.read_text() == content


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="GATEWAY_SECRET"):
        load_secrets(settings_in(tmp_path / "file" / "data"))
