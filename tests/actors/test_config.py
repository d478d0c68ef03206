"""Settings: where a value comes from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from logeion.actors.config import Config, keys, load, parse_address, show_address
from logeion.cli.config import config as command
from logeion.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return file


def test_flags_win_over_the_environment_that_over_the_file_that_over_the_default(tmp_path: Path) -> None:
    file = write(tmp_path, '[listeners]\nport = 1\nadvertise = "a"\n[http]\nport = 2\n[topics]\npartitions = 3\n')
    environment = {"LOGEION_LISTENERS__PORT": "11", "LOGEION_HTTP__PORT": "12", "HOME": "/"}
    loaded = load(file, environment, {"listeners.port": 21, "http.port": None})
    config = loaded.config
    assert (config.listeners.port, config.http.port, config.topics.partitions, config.node.id) == (21, 12, 3, 1)
    assert loaded.origins["listeners.port"] == "flag"
    assert loaded.origins["http.port"] == "environment LOGEION_HTTP__PORT"
    assert loaded.origins["topics.partitions"] == f"file {file}"
    assert loaded.origins["node.id"] == "default"


def test_every_setting_has_an_origin() -> None:
    assert load().origins == {f"{section}.{key}": "default" for section, key in keys()}


def test_settings_travel_as_bytes() -> None:
    config = load(None, {"LOGEION_TOPICS__CONFIGS": "retention.ms=5,segment.ms=7", "LOGEION_NODE__RACK": "r1"}).config
    assert config.topics.configs == {"retention.ms": "5", "segment.ms": "7"}
    assert Config.decode(config.encode()) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[listener]\nport = 1\n", ["[listener]", "did you mean listeners?"]),
        ("[listeners]\nprot = 1\n", ["listeners.prot", "did you mean port?"]),
        ("[listeners]\nport = 99999\n", ["listeners.port", "65535"]),
        ('[listeners]\nport = "9092"\n', ["listeners.port", "int"]),
        ("listeners = 1\n", ["[listeners]", "table"]),
        ("[listeners\n", ["node.toml"]),
        ('[storage]\nflush = "never"\n', ["storage.flush"]),
        ('[topics.configs]\n"retention.msx" = "1"\n', ["topics.configs", "retention.ms"]),
        ("[listeners]\nbind = []\n", ["listeners.bind"]),
        ('[listeners]\nadvertise = "host:port"\n', ["listeners.advertise", "port"]),
        ("[limits]\nframe_bytes = 100\n", ["first_frame_bytes"]),
        ("[groups]\nmin_session_timeout_ms = 9000000\n", ["min_session_timeout_ms"]),
        ('[cluster]\nvoters = ["1@a:5", "b:5"]\n', ["cluster.voters", "'b:5'", "ID@HOST:PORT"]),
        ('[cluster]\nvoters = ["x@a:5"]\n', ["cluster.voters", "ID@HOST:PORT"]),
        ('[cluster]\nvoters = ["1@a"]\n', ["cluster.voters", "'1@a'", "9645"]),
        ('[cluster]\nvoters = ["1@:5"]\n', ["cluster.voters", "no host"]),
        ('[cluster]\nvoters = ["1@a:5", "1@b:5"]\n', ["cluster.voters", "same id"]),
        ('[cluster]\nvoters = ["1@a:5", "2@a:5"]\n', ["cluster.voters", "same address"]),
        ('[cluster]\nadvertise = "a:b:c:x"\nvoters = ["1@a:5"]\n[listeners]\nport = "x"\n', ["listeners.port"]),
        ('[cluster]\nadvertise = "a:x"\n', ["cluster.advertise", "port"]),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_setting(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, text))
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"node\.toml"):
        load(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOGEION_LISTENERS__PROT", "1"),
        ("LOGEION_NOTHING__PORT", "1"),
        ("LOGEION_LISTENERS__PORT", "many"),
        ("LOGEION_TOPICS__AUTO_CREATE", "maybe"),
        ("LOGEION_TOPICS__CONFIGS", "retention.ms"),
    ],
)
def test_a_wrong_variable_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load(None, {name: value})


def test_variables_that_are_no_settings_are_left_alone() -> None:
    assert load(None, {"LOGEION_REQUIRE_ALL": "1", "OTHER__KEY": "x"}).config == Config()


def test_variables_have_lists_and_booleans() -> None:
    environment = {"LOGEION_LISTENERS__BIND": "0.0.0.0, ::", "LOGEION_TOPICS__AUTO_CREATE": "false"}
    config = load(None, environment).config
    assert config.listeners.bind == ["0.0.0.0", "::"]
    assert config.topics.auto_create is False


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("h", "h", 5), ("h:1", "h", 1), ("[::1]:7", "::1", 7), ("[::1]", "::1", 5), ("::1", "::1", 5), ("h:", "h", 5)],
)
def test_addresses_are_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_address(text, 5) == (host, port)
    assert parse_address(show_address(host, port), 0) == (host, port)


@pytest.mark.parametrize("text", ["", ":1", "h:x", "h:65536", "[::1", "[::1]7"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text, 5)


def test_voters_are_ids_with_addresses() -> None:
    config = load(None, {"LOGEION_CLUSTER__VOTERS": "1@10.0.0.1:9645, 7@[fd00::7]:1,2@name:2"}).config
    assert config.voters() == {1: ("10.0.0.1", 9645), 7: ("fd00::7", 1), 2: ("name", 2)}
    assert Config().voters() == {}


def test_the_cluster_address_is_advertised_or_listed_or_bound() -> None:
    def address(node: int, **more: str) -> tuple[str, int]:
        environment = {f"LOGEION_CLUSTER__{name.upper()}": text for name, text in more.items()}
        return load(None, environment, {"node.id": node}).config.cluster_address()

    voters = "1@one:5,2@two:6,3@three:7"
    assert address(2, voters=voters, bind="0.0.0.0") == ("two", 6)
    assert address(4, voters=voters, bind="10.0.0.4", port="8") == ("10.0.0.4", 8)
    assert address(2, voters=voters, advertise="outside", port="9") == ("outside", 9)
    assert address(2, voters=voters, advertise="[fd00::2]:10") == ("fd00::2", 10)
    assert address(2) == ("", 0), "alone"


def test_a_voter_has_the_cluster_port_that_the_voters_say(tmp_path: Path) -> None:
    file = write(tmp_path, '[cluster]\nvoters = ["1@one:5", "2@two:6"]\n')
    loaded = load(file, None, {"node.id": 2})
    assert (loaded.config.cluster.port, loaded.origins["cluster.port"]) == (6, f"file {file}")
    assert load(file, {"LOGEION_CLUSTER__PORT": "7"}, {"node.id": 2}).config.cluster.port == 7
    assert load(file, None, {"node.id": 3}).config.cluster.port == Config().cluster.port


def test_a_command_has_defaults_of_its_own() -> None:
    mine = {"groups.offsets_partitions": 8}
    loaded = load(None, {}, {}, mine)
    assert (loaded.config.groups.offsets_partitions, loaded.origins["groups.offsets_partitions"]) == (8, "default")
    assert load(None, {"LOGEION_GROUPS__OFFSETS_PARTITIONS": "3"}, {}, mine).config.groups.offsets_partitions == 3


def test_config_show_tells_values_and_origins(tmp_path: Path) -> None:
    file = write(tmp_path, "[listeners]\nport = 1234\n")
    shown = CliRunner().invoke(command, ["show", "--origin", "-o", "json", "--config", str(file)])
    assert shown.exit_code == 0
    found = {one["setting"]: one for one in json.loads(shown.output)}
    assert found["listeners.port"] == {"setting": "listeners.port", "value": 1234, "origin": f"file {file}"}
    table = CliRunner().invoke(command, ["show"])
    assert "listeners.port" in table.output and "9092" in table.output


def test_config_show_refuses_a_wrong_file_with_its_cause(tmp_path: Path) -> None:
    shown = CliRunner().invoke(command, ["show", "--config", str(write(tmp_path, "[listener]\n"))])
    assert shown.exit_code == 1
    assert "did you mean listeners?" in shown.output
