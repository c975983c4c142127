from pathlib import Path

import pytest

from service.config import load_settings
from service.errors import InputError


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "padrec.toml"
    file.write_text('[gateway]\nport = 9000\nhost = "0.0.0.0"\n[worker]\nmax_batch = 4\n')
    monkeypatch.setenv("PADREC_GATEWAY__PORT", "9100")
    settings = load_settings(file)
    assert (settings.gateway.port, settings.gateway.host, settings.worker.max_batch) == (9100, "0.0.0.0", 4)
    assert settings.worker.max_queue == load_settings().worker.max_queue


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[gateway]\nport = 70000\n", "setting 'gateway.port'"),
        ("[gateway]\nprot = 1\n", "setting 'gateway.prot'"),
        ("[gatevvay]\nport = 1\n", "setting 'gatevvay'"),
        ('[worker]\nspeculation = "often"\n', "setting 'worker.speculation'"),
        ("[gateway\n", "not valid TOML"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "padrec.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        load_settings(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such settings file"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("value", ["notjson", "3", "{"])
def test_a_section_that_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PADREC_GATEWAY", value)
    with pytest.raises(InputError, match="gateway") as raised:
        load_settings()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[gateway]\ntls_certificate = "c"\n', "setting 'gateway': tls_certificate needs tls_key"),
        ('[gateway]\ntls_key = "k"\n', "setting 'gateway': tls_key needs tls_certificate"),
        ('[gateway]\ntls_client_ca = "a"\n', "setting 'gateway': tls_client_ca needs tls_certificate"),
        (
            '[gateway]\nworker_tls_key = "k"\n',
            "setting 'gateway': worker_tls_key needs worker_tls_certificate",
        ),
        (
            '[gateway]\nworker_tls_key = "k"\nworker_tls_certificate = "c"\n',
            "setting 'gateway': worker_tls_certificate needs worker_tls_ca",
        ),
        ('[gateway]\nworker_tls_name = "n"\n', "setting 'gateway': worker_tls_name needs worker_tls_ca"),
        ("[gateway]\nmetrics_need_key = true\n", "setting 'gateway': metrics_need_key needs keys_file"),
        ('[worker]\ntls_certificate = "c"\n', "setting 'worker': tls_certificate needs tls_key"),
        ('[worker]\ntls_client_ca = "a"\n', "setting 'worker': tls_client_ca needs tls_certificate"),
    ],
)
def test_half_given_settings_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "padrec.toml"
    file.write_text(content)
    with pytest.raises(InputError) as raised:
        load_settings(file)
    assert str(raised.value) == message
