"""`gateway import`: configurations of other gateways, shown first and written only when asked to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.output import AsJson, echo_json, echo_table
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.litellm_config import Import

app = typer.Typer(help="Take over the configuration of another gateway.", no_args_is_help=True)

_CATALOG, _PLANS, _ENVIRONMENT = "pricing.toml", "plans.toml", "gateway.env"
_FILE_BYTES_MAX = 8 * 2**20
_NOT_IN_THE_FILE = (
    "Not in any file: virtual keys, teams, users, their budgets and what they have spent are in LiteLLM's database. Make a",
    "creator for each team or user (POST /admin/creators, or `gateway creators add`), a key for each app",
    "(POST /admin/creators/ID/keys, or `gateway keys create`), and hand the new keys out: the old ones cannot be taken over.",
)


@app.callback()
def _imports() -> None:
    """Take over the configuration of another gateway."""


@app.command("litellm-config")
def litellm_config(
    file: Annotated[Path, typer.Argument(help="The configuration of a LiteLLM proxy, YAML.")],
    write: Annotated[bool, typer.Option("--write", help="Write the files. Without it, they are only shown.")] = False,
    into: Annotated[Path, typer.Option(help="The folder the files are for.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what becomes of every key of a LiteLLM configuration, and make pricing.toml, plans.toml and gateway.env of it."""
    from gateway.litellm_config import included_files, read_config
    from gateway.toml_file import read_text

    text = read_text(file, bytes_max=_FILE_BYTES_MAX)
    included = [
        (name, read_text(file.parent / name, bytes_max=_FILE_BYTES_MAX)) for name in included_files(text, file.name)
    ]
    found = read_config(text, file.name, packaged=_packaged_rows(), included=included)
    files = _files(found, into)
    _check(files)
    if write:
        _write(files, into, force=force)
    if as_json:
        echo_json(_as_json(found, files, into, is_written=write))
    else:
        _show(found, files, into, is_written=write)


def _packaged_rows() -> Mapping[str, Mapping[str, Any]]:
    """The packaged catalog as its file has it: figures are copied, not computed."""
    from gateway.catalog import packaged_catalog
    from gateway.toml_file import TomlFile

    rows: Mapping[str, Mapping[str, Any]] = TomlFile(packaged_catalog()).data["models"]
    return rows


def _files(found: "Import", into: Path) -> dict[str, str]:
    """What would be written, by name. The files name each other by whole paths, wherever the gateway is started."""
    folder = into.absolute()
    texts = {_CATALOG: found.catalog, _PLANS: found.plans}
    paths = {name: str(folder / name) if text else "" for name, text in texts.items()}
    texts[_ENVIRONMENT] = found.environment(paths[_CATALOG], paths[_PLANS])
    return {name: text for name, text in texts.items() if text}


def _check(files: Mapping[str, str]) -> None:
    """Reads the files as the gateway will, before anybody can rely on them. Raises `ConfigError`."""
    from tempfile import TemporaryDirectory

    from gateway.catalog import load_catalog
    from gateway.plans import load_plans

    with TemporaryDirectory() as folder:
        for name, load in ((_CATALOG, load_catalog), (_PLANS, load_plans)):
            if name not in files:
                continue
            path = Path(folder) / name
            path.write_text(files[name], encoding="utf-8")
            try:
                load(path)
            except ConfigError as exc:
                raise ConfigError(f"nothing was written: {str(exc).replace(f'{folder}/', '')}") from None


def _write(files: Mapping[str, str], into: Path, *, force: bool) -> None:
    if not force and (there := [name for name in files if (into / name).exists()]):
        raise ConfigError(f"nothing was written: {', '.join(there)} in {into} is there already; --force writes over it")
    into.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with (into / name).open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)


def _as_json(found: "Import", files: Mapping[str, str], into: Path, *, is_written: bool) -> dict[str, Any]:
    return {
        "is_written": is_written,
        "folder": str(into.absolute()),
        "files": dict(files),
        "models": found.models,
        "unpriced": found.unpriced,
        "settings": dict(found.settings),
        "to_fill_in": dict(found.secrets),
        "keys": [line._asdict() for line in found.lines],
        "not_in_the_file": " ".join(_NOT_IN_THE_FILE),
    }


def _show(found: "Import", files: Mapping[str, str], into: Path, *, is_written: bool) -> None:
    typer.echo("Every key of the configuration, and what becomes of it:\n")
    echo_table(
        ("line", "key", "becomes"),
        (
            {
                "line": f"{line.file}:{line.line}",
                "key": line.key,
                "becomes": f"{line.kind}: {line.note}" if line.note else line.kind,
            }
            for line in found.lines
        ),
    )
    counts = {
        kind: sum(line.kind == kind for line in found.lines) for kind in ("taken", "taken differently", "not taken")
    }
    typer.echo(f"\n{', '.join(f'{count} {kind}' for kind, count in counts.items())}.")
    typer.echo(f"{len(found.models)} models: {', '.join(found.models) or 'none'}")
    for name in found.unpriced:
        typer.echo(
            f"unpriced: {name}: its calls would be refused. Give it input_usd_per_mtok and output_usd_per_mtok in "
            f"{_CATALOG} (0 is a price), or model_info.base_model in the configuration."
        )
    typer.echo("")
    for line in _NOT_IN_THE_FILE:
        typer.echo(line)
    typer.echo("")
    if is_written:
        typer.echo(f"Written to {into}: {', '.join(files)}. Next: fill in {_ENVIRONMENT}, then `gateway check`.")
        return
    for name, text in files.items():
        typer.echo(f"--- {name}\n{text}")
    typer.echo("Nothing was written. With --write the files go into the folder that --into names, here by default.")
