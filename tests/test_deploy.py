"""deploy/ fits the gateway: its settings, bounds, routes, user; and its files fit each other.

helm, nginx and docker are not needed here. What only they can say is not said here. `tests/monitoring` has Prometheus and Grafana.
"""

import configparser
import json
import re
import tomllib
from typing import Any
from typing import get_args as alternatives

import jsonschema_rs
import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import SecretStr

from gateway.addresses import trusted_networks
from gateway.assets.opening import open_asset_store
from gateway.catalog import load_catalog, packaged_catalog
from gateway.config import Settings, load_settings
from gateway.endpoints.health import routes as health_routes
from gateway.errors import ConfigError
from tests.deploy_files import (
    DEPLOY,
    HELM,
    README,
    ROOT,
    VariableMissing,
    actions,
    compose,
    env_file,
    filled_in,
    gateways,
    nginx_directives,
    nginx_value,
    paths,
    pod_environment,
    seconds,
    size_bytes,
    templates,
    used_values,
    values,
    values_schema,
    variables_of,
)

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
COMPOSE = (DEPLOY / "compose.yaml").read_text()
SETTINGS = {f"GATEWAY_{name.upper()}": field for name, field in Settings.model_fields.items()}
SECRETS = {name for name, field in SETTINGS.items() if SecretStr in (field.annotation, *alternatives(field.annotation))}
PROVIDER_KEYS = set(re.findall(r'api_key_env\s*=\s*"(\w+)"', packaged_catalog().read_text()))
DEFAULTS = Settings.model_construct()
LAST_WORDS_S = 10
"""How long calls that the end of the grace interrupted may take to say so, beside `GATEWAY_SETTLE_TIMEOUT_S`."""
SAMPLE = {
    name: f"{name.lower().replace('_', '-')}-0123456789abcdef"
    for name in ("GATEWAY_SECRET", "GATEWAY_ADMIN_KEY", "POSTGRES_PASSWORD", "VALKEY_PASSWORD")
}


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


def loaded(environment: dict[str, str]) -> Settings:
    """What the gateway makes of these variables. Raises `ConfigError`."""
    ours = {name: value for name, value in environment.items() if name.startswith("GATEWAY_")}
    assert ours.keys() <= SETTINGS.keys()
    return load_settings(**{name.removeprefix("GATEWAY_").lower(): value for name, value in ours.items()})


def stop_s(settings: Settings) -> float:
    """How long a gateway may take from SIGTERM to its end."""
    return settings.drain_delay_s + settings.drain_grace_s + settings.settle_timeout_s + LAST_WORDS_S


# All files


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_no_file_knows_the_machine_it_was_written_on(path: Any) -> None:
    assert not re.search(r"(?<![\w./-])/(work|root|home|tmp)(/|\b)", path.read_text())


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix in (".yaml", ".json")], ids=lambda path: path.name
)
def test_every_yaml_and_json_file_is_one(path: Any) -> None:
    if path.parent.name != "templates":
        assert yaml.safe_load(path.read_text())


def test_no_image_names_a_registry() -> None:
    images = [service["image"] for service in compose()["services"].values()] + [values()["image"]["repository"]]
    for image in images:
        first, _, rest = filled_in(image, {}).partition("/")
        assert not (rest and re.search(r"[.:]", first)), image


# Compose


def test_every_reference_in_the_compose_file_leads_somewhere() -> None:
    told = compose()
    for name, service in told["services"].items():
        for network in service["networks"]:
            assert network in told["networks"], name
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in told["volumes"], name
        for config in service.get("configs", []):
            assert config["source"] in told["configs"], name
        for secret in service.get("secrets", []):
            assert secret in told["secrets"], name
        for other, how in service.get("depends_on", {}).items():
            assert "healthcheck" in told["services"][other], name
            assert how["condition"] == "service_healthy"
    for config in told["configs"].values():
        assert "content" in config or (DEPLOY / config["file"]).is_file()


def test_nothing_in_the_compose_file_is_named_for_nobody() -> None:
    services = list(compose()["services"].values())
    assert {network for service in services for network in service["networks"]} == set(compose()["networks"])
    assert {config["source"] for service in services for config in service.get("configs", [])} == set(
        compose()["configs"]
    )
    assert {secret for service in services for secret in service.get("secrets", [])} == set(compose()["secrets"])
    assert {volume.partition(":")[0] for service in services for volume in service.get("volumes", [])} == set(
        compose()["volumes"]
    )


@pytest.mark.parametrize("missing", sorted(SAMPLE))
def test_compose_refuses_to_start_without_a_secret(missing: str) -> None:
    filled_in(COMPOSE, SAMPLE)
    with pytest.raises(VariableMissing, match=missing):
        filled_in(COMPOSE, SAMPLE | {missing: ""})


def test_no_secret_of_the_compose_file_has_a_default() -> None:
    uses = variables_of(COMPOSE)
    assert {name for name, kinds in uses.items() if ":?" in kinds} == set(SAMPLE)
    assert all(uses[name] == {":?"} for name in SAMPLE)
    assert {secret["environment"] for secret in compose()["secrets"].values()} <= set(SAMPLE)


def test_the_example_of_an_env_file_has_every_variable_and_no_secret() -> None:
    example = env_file(DEPLOY / "compose.env.example")
    assert example.keys() | {"GATEWAY_IMAGE"} == variables_of(COMPOSE).keys()
    assert not any(example[name] for name in {*SAMPLE, *PROVIDER_KEYS} & example.keys())


def test_compose_can_write_what_it_copies_into_a_container() -> None:
    """A config with `content` and a secret from a variable are copied there, which a read-only file system refuses."""
    told = compose()
    for service in told["services"].values():
        copied = [name["source"] for name in service.get("configs", []) if "content" in told["configs"][name["source"]]]
        assert not (service.get("read_only") and (copied or service.get("secrets")))


@pytest.mark.parametrize("name", sorted(gateways()))
def test_the_gateway_takes_its_settings_from_the_compose_file(name: str) -> None:
    environment = {key: filled_in(str(value), SAMPLE) for key, value in gateways()[name]["environment"].items()}
    settings = loaded(environment)
    assert settings.has_shared_stores
    assert {key for key in environment if not key.startswith("GATEWAY_")} <= PROVIDER_KEYS
    assert trusted_networks(settings.trusted_proxies)
    assert open_asset_store(settings.assets_url, settings.data_dir) is not None
    assert str(settings.data_dir).startswith("/data/")


def test_the_settings_around_the_tests_can_be_refused() -> None:
    with pytest.raises(ConfigError, match="GATEWAY_DATABASE_URL"):
        loaded({"GATEWAY_DATABASE_URL": "mysql://gateway@db/gateway", "GATEWAY_SECRET": SAMPLE["GATEWAY_SECRET"]})


def test_the_gateways_share_their_stores_and_images_and_no_data_folder() -> None:
    assert len(gateways()) == 2
    environments = [service["environment"] for service in gateways().values()]
    assert len({environment["GATEWAY_DATA_DIR"] for environment in environments}) == len(environments)
    shared = [{key: value for key, value in one.items() if key != "GATEWAY_DATA_DIR"} for one in environments]
    assert shared[0] == shared[1]


@pytest.mark.parametrize("setting", ["GATEWAY_DATABASE_URL", "GATEWAY_REDIS_URL"])
def test_the_stores_are_services_the_gateways_reach(setting: str) -> None:
    for service in gateways().values():
        (host,) = re.findall(r"@([a-z-]+):", filled_in(service["environment"][setting], SAMPLE))
        assert set(compose()["services"][host]["networks"]) & set(service["networks"])
        assert host in service["depends_on"]


@pytest.mark.parametrize("name", sorted(gateways()))
def test_compose_waits_for_the_drain(name: str) -> None:
    service = gateways()[name]
    settings = loaded({key: filled_in(str(value), SAMPLE) for key, value in service["environment"].items()})
    assert seconds(service["stop_grace_period"]) > stop_s(settings)
    assert seconds(compose()["services"]["nginx"]["stop_grace_period"]) >= seconds(service["stop_grace_period"])


def test_redis_never_throws_counters_away() -> None:
    service = compose()["services"]["valkey"]
    (config,) = service["configs"]
    assert service["command"][-1] == config["target"]
    lines = compose()["configs"][config["source"]]["content"].splitlines()
    assert "maxmemory-policy noeviction" in lines
    assert any(line.startswith("requirepass ${VALKEY_PASSWORD:?") for line in lines)


def test_only_nginx_has_a_port_outside_and_only_on_this_machine() -> None:
    (ports,) = [service["ports"] for service in compose()["services"].values() if "ports" in service]
    assert ports == compose()["services"]["nginx"]["ports"]
    assert [filled_in(port, {}).rpartition(":")[0].partition(":")[0] for port in ports] == ["127.0.0.1"]
    assert compose()["networks"]["back"]["internal"] is True


# nginx


def test_nginx_knows_every_gateway() -> None:
    servers = [words[1] for blocks, words in nginx_directives() if words[0] == "server" and "upstream" in blocks[-1]]
    assert servers == [f"{name}:8000" for name in gateways()]
    assert f":{nginx_value('listen')[0]}" in compose()["services"]["nginx"]["ports"][0]


def test_every_directive_of_nginx_ends_on_its_line() -> None:
    """Without its semicolon one would swallow the next; only a text in quotes goes on."""
    lines = [line.strip() for line in (DEPLOY / "nginx.conf").read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert line.endswith((";", "{", "}")) or following.startswith("'"), line


def test_nginx_passes_streams_on_as_they_come() -> None:
    assert nginx_value("proxy_buffering", "location /") == ["off"]
    assert nginx_value("gzip", "location /") == ["off"]
    assert nginx_value("proxy_http_version", "location /") == ["1.1"]
    assert ["proxy_set_header", "Connection", ""] in [words for _, words in nginx_directives()]


def test_nginx_never_sends_a_call_twice() -> None:
    """`error` and `timeout` repeat a POST only where nothing was sent; a status is an answer and is not repeated."""
    assert set(nginx_value("proxy_next_upstream")) == {"error", "timeout"}


def test_nginx_has_more_patience_and_room_than_a_gateway() -> None:
    assert seconds(nginx_value("proxy_read_timeout")[0]) > DEFAULTS.total_timeout_s
    assert seconds(nginx_value("send_timeout")[0]) >= DEFAULTS.stall_timeout_s
    assert size_bytes(nginx_value("client_max_body_size")[0]) > DEFAULTS.body_bytes_max


def test_no_idle_connection_of_nginx_outlives_the_drain_delay() -> None:
    idle_s = seconds(nginx_value("keepalive_timeout", "upstream")[0])
    for service in gateways().values():
        assert idle_s < seconds(service["environment"]["GATEWAY_DRAIN_DELAY_S"])
    assert idle_s < DEFAULTS.keep_alive_s
    shutdown_s = seconds(nginx_value("worker_shutdown_timeout")[0])
    assert shutdown_s < seconds(compose()["services"]["nginx"]["stop_grace_period"])


def test_addresses_of_clients_cannot_be_made_up() -> None:
    forwarded = [words[2] for _, words in nginx_directives() if words[:2] == ["proxy_set_header", "X-Forwarded-For"]]
    assert forwarded == ["$remote_addr"]


def test_what_nginx_answers_itself_has_the_shape_of_our_errors() -> None:
    bodies = [json.loads(words[2]) for _, words in nginx_directives() if words[0] == "return" and len(words) == 3]
    assert {body["error"]["code"] for body in bodies} == {"request_too_large", "gateway_unreachable"}
    for body in bodies:
        assert body["error"].keys() == {"message", "type", "param", "code"}


def test_nginx_writes_only_where_it_may() -> None:
    writable = [mount.partition(":")[0] for mount in compose()["services"]["nginx"]["tmpfs"]]
    written = [words[1] for _, words in nginx_directives() if words[0].endswith("_temp_path") or words[0] == "pid"]
    assert len(written) == 6
    for path in written:
        assert any(path.startswith(f"{folder}/") for folder in writable), path


# Helm


def with_secret(**changes: Any) -> dict[str, Any]:
    return values() | {"secret": {"existingSecret": "gateway", "providerKeysSecret": ""}} | changes


def is_accepted(told: dict[str, Any]) -> bool:
    return jsonschema_rs.validator_for(values_schema()).is_valid(told)


def test_the_values_are_as_their_schema_says() -> None:
    jsonschema_rs.meta.validate(values_schema())
    jsonschema_rs.validate(values_schema(), with_secret())


@pytest.mark.parametrize("setting", sorted(SECRETS))
def test_the_chart_takes_no_secret_as_a_value(setting: str) -> None:
    assert not is_accepted(with_secret(settings={setting: "x"}))


@pytest.mark.parametrize("setting", sorted(pod_environment()))
def test_what_the_chart_sets_itself_is_a_setting_and_no_value(setting: str) -> None:
    assert setting in SETTINGS
    assert not is_accepted(with_secret(settings={setting: "x"}))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"replica": 3}, id="a misspelt name"),
        pytest.param({"replicas": 0}, id="no pod"),
        pytest.param({"settings": {"LOG_LEVEL": "info"}}, id="no setting of ours"),
        pytest.param({"settings": {"GATEWAY_CALLS_MAX": 100}}, id="a number, which Kubernetes refuses"),
        pytest.param({"secret": {}}, id="no secret named"),
        pytest.param({"ingress": {"enabled": True, "host": ""}}, id="an ingress without a host"),
        pytest.param({"drain": {"delaySeconds": 5, "graceSeconds": 5, "marginSeconds": 1}}, id="killed while settling"),
    ],
)
def test_the_schema_refuses(changes: dict[str, Any]) -> None:
    assert not is_accepted(with_secret(**changes))


def test_the_schema_has_every_value_and_no_other() -> None:
    def compared(told: dict[str, Any], schema: dict[str, Any], at: str) -> None:
        known = schema.get("properties")
        if known is None:
            return
        assert schema["additionalProperties"] is False, at
        assert told.keys() == known.keys() - {"global"}, at
        for name, value in told.items():
            if isinstance(value, dict):
                compared(value, known[name], f"{at}.{name}")

    compared(values(), values_schema(), "values")


def test_every_value_a_template_reads_exists() -> None:
    assert used_values() <= dict(paths(values())).keys()


def test_every_value_is_read_by_a_template() -> None:
    used = used_values()
    leaves = {path for path, value in paths(values()) if not isinstance(value, dict) or not value}
    unread = {
        leaf
        for leaf in leaves
        if not any(".".join(leaf.split(".")[:length]) in used for length in range(1, leaf.count(".") + 2))
    }
    assert not unread


@pytest.mark.parametrize("name", sorted(templates()))
def test_every_block_of_a_template_ends(name: str) -> None:
    depth = 0
    for action in actions(templates()[name]):
        word = action.partition(" ")[0]
        depth += (word in ("if", "with", "range", "define")) - (word == "end")
        assert depth >= 0, action
    assert depth == 0
    assert templates()[name].count("{{") == templates()[name].count("}}")


def test_every_named_template_is_defined_and_used() -> None:
    text = "".join(templates().values())
    assert set(re.findall(r'include "([\w.]+)"', text)) == set(re.findall(r'define "([\w.]+)"', text))


def test_the_gateway_takes_the_settings_of_the_chart() -> None:
    settings = loaded(
        values()["settings"]
        | {
            "GATEWAY_DATABASE_URL": "postgresql://gateway:x@db/gateway",
            "GATEWAY_REDIS_URL": "redis://:x@counters",
            "GATEWAY_SECRET": SAMPLE["GATEWAY_SECRET"],
            "GATEWAY_ADMIN_KEY": SAMPLE["GATEWAY_ADMIN_KEY"],
            "GATEWAY_WORKERS": str(values()["workers"]),
            "GATEWAY_DRAIN_DELAY_S": str(values()["drain"]["delaySeconds"]),
            "GATEWAY_DRAIN_GRACE_S": str(values()["drain"]["graceSeconds"]),
        }
    )
    assert settings.has_shared_stores
    # A folder is of one pod alone.
    assert open_asset_store(settings.assets_url, settings.data_dir) is None
    assert sum(values()["drain"].values()) > stop_s(settings)


def test_no_margin_the_chart_takes_is_too_short_to_settle() -> None:
    margin_s = values_schema()["properties"]["drain"]["properties"]["marginSeconds"]["minimum"]
    assert margin_s > DEFAULTS.settle_timeout_s + LAST_WORDS_S


def test_a_pod_is_out_of_the_service_before_its_port_closes() -> None:
    (probe,) = re.findall(r"readinessProbe:\n(.*?)\n {6}\w", templates()["_pod.tpl"], re.DOTALL)
    period, timeout, failures = (
        int(re.findall(rf"{name}: (\d+)", probe)[0]) for name in ("periodSeconds", "timeoutSeconds", "failureThreshold")
    )
    assert values()["drain"]["delaySeconds"] > (period + timeout) * failures


def test_the_probes_ask_what_the_gateway_answers() -> None:
    asked = set(re.findall(r"path: (/health/\w+)", templates()["_pod.tpl"]))
    assert asked == {route.path for route in health_routes if route.path.startswith("/health/")}
    assert "path: /metrics" in templates()["servicemonitor.yaml"]


def test_the_ingress_has_every_path_but_those_for_machines() -> None:
    table = README.partition("\n## Endpoints\n")[2].partition("\n## ")[0]
    first = {f"/{name}" for name in re.findall(r"`[A-Z/]* ?/(\w+)", table)}
    assert first
    assert set(re.findall(r'"(/\w+)"', templates()["ingress.yaml"])) == first - {"/health", "/metrics"}


def test_chart_and_image_agree() -> None:
    chart = yaml.safe_load((HELM / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (chart["name"], chart["appVersion"]) == (project["name"], project["version"])
    dockerfile = (ROOT / "Dockerfile").read_text()
    pod = templates()["_pod.tpl"]
    (uid,) = re.findall(r"--uid (\d+)", dockerfile)
    (port,) = re.findall(r"EXPOSE (\d+)", dockerfile)
    assert re.findall(r"(?:runAsUser|runAsGroup|fsGroup): (\d+)", pod) == [uid] * 3
    assert f"containerPort: {port}" in pod
    assert f'value: "{port}"' in pod
    (volume,) = re.findall(r"VOLUME (\S+)", dockerfile)
    assert f"mountPath: {volume}\n" in pod


# systemd


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / "systemd" / "gateway.service").read_text())
    return parser


def test_the_unit_waits_for_the_drain_and_reloads_by_a_hangup() -> None:
    service = unit()["Service"]
    settings = loaded(env_file(DEPLOY / "systemd" / "gateway.env.example"))
    assert seconds(service["TimeoutStopSec"]) > stop_s(settings)
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    assert service["KillMode"] == "mixed"
    assert service["ExecStart"].endswith("/gateway serve")


def test_the_example_of_the_unit_is_good_as_it_is_and_when_all_of_it_is_filled_in() -> None:
    path = DEPLOY / "systemd" / "gateway.env.example"
    assert not loaded(env_file(path)).has_shared_stores
    everything = env_file(path, with_comments=True)
    assert not any(everything[name] for name in ("GATEWAY_SECRET", "GATEWAY_ADMIN_KEY"))
    assert {name for name in everything if not name.startswith("GATEWAY_")} <= PROVIDER_KEYS
    with pytest.raises(ConfigError, match="GATEWAY_SECRET"):
        loaded(everything)
    assert loaded(everything | SAMPLE).workers == 2
    assert trusted_networks(everything["GATEWAY_TRUSTED_PROXIES"])


def test_the_unit_names_the_data_folder_it_may_write_to() -> None:
    service = unit()["Service"]
    assert f"GATEWAY_DATA_DIR=%S/{service['StateDirectory']}" in service["Environment"].split()
    assert service["ProtectSystem"] == "strict"


def test_the_catalog_names_the_provider_keys_of_the_examples() -> None:
    assert load_catalog(None).providers
    for path in (DEPLOY / "compose.env.example", DEPLOY / "systemd" / "gateway.env.example"):
        assert {name for name in env_file(path, with_comments=True) if name.endswith("_KEY")} - SECRETS <= PROVIDER_KEYS
