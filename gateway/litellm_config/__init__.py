"""A LiteLLM proxy configuration, read as text -> files of this gateway, and what becomes of every key of it.

Pure: no file, no environment, no clock. Format: docs.litellm.ai, pages `proxy/configs` (2026-10-13) and
`proxy/config_settings`, and litellm 1.106.2. Prices keep every digit; secrets of the file are named by where they stand and
never repeated. Virtual keys, teams, users, their budgets and what they spent are in LiteLLM's database, not in its file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.errors import ConfigError
from gateway.litellm_config import settings as other_settings
from gateway.litellm_config.models import Draft, alias, fall_back, read_models, unpriced
from gateway.litellm_config.providers import Providers
from gateway.litellm_config.settings import Found, read_settings
from gateway.litellm_config.source import At, Line, Node, Report, merged, parse
from gateway.litellm_config.writing import catalog_text, environment_text, plans_text

__all__ = ["Import", "Line", "included_files", "read_config"]

PLAN = "imported"
_INCLUDES_MAX = 50
_DEFAULT_ATTEMPTS = 3


@dataclass(frozen=True)
class Import:
    """What one configuration comes to."""

    lines: list[Line]
    """A line for each key, in the order of the file."""
    catalog: str
    """pricing.toml as text; empty where no model could be taken."""
    plans: str
    """plans.toml as text; empty where the packaged plans will do."""
    settings: Mapping[str, str]
    """`GATEWAY_*` to be set."""
    secrets: Mapping[str, str]
    """Environment variables whose values the reader has to put there, and what for."""
    models: list[str]
    unpriced: list[str]

    def environment(self, catalog_path: str, plans_path: str) -> str:
        """The file of environment variables, naming the other two; an empty path: none."""
        paths = {"GATEWAY_PRICING_FILE": catalog_path, "GATEWAY_PLANS_FILE": plans_path}
        return environment_text({name: path for name, path in paths.items() if path}, self.settings, self.secrets)


def included_files(text: str, file: str) -> list[str]:
    """The paths that `include` names. Raises `ConfigError`."""
    node = parse(text, file).value.get("include")
    words = At(node, Report()).words() if node is not None else []
    if len(words) > _INCLUDES_MAX:
        raise ConfigError(f"{file}: include names more than {_INCLUDES_MAX} files")
    return words


def read_config(
    text: str,
    file: str,
    *,
    packaged: Mapping[str, Mapping[str, Any]],
    included: Sequence[tuple[str, str]] = (),
    version: str = "litellm-import",
) -> Import:
    """What `text`, the content of `file`, comes to. `packaged`: rows of the packaged catalog, for models that LiteLLM
    prices by its own list; `included`: names and texts of the files that `include` names. Raises `ConfigError`."""
    report = Report()
    tree = merged(parse(text, file), [parse(other, name) for name, other in included])
    root = At(tree, report)
    for at in root.below():
        if at.path == ("include",):
            at.taken("read with this file")
    variables = _variables(root)
    providers = Providers(variables, set(_referred(tree)))
    entries = root.get("model_list")
    drafts = read_models(entries.below() if entries is not None else (), providers, packaged)
    found = read_settings(root)
    for draft in drafts.values():
        draft.retries = found.retries
    _lead_on(drafts, found)
    _bound_attempts(drafts, found)
    used = {place.provider for draft in drafts.values() for place in draft.places}
    rows = {name: row for name, row in providers.rows.items() if name in used}
    keys = {row.api_key_env for row in rows.values()}
    return Import(
        lines=report.lines(tree),
        catalog=catalog_text(version, rows, drafts.values()) if drafts else "",
        plans=plans_text(PLAN, found.plan) if found.plan else "",
        settings=found.settings,
        secrets={name: why for name, why in providers.secrets.items() if name in keys} | found.secrets,
        models=list(drafts),
        unpriced=[name for name, draft in drafts.items() if unpriced(draft)],
    )


def _variables(root: At) -> dict[str, str]:
    section = root.get("environment_variables")
    nodes: Mapping[str, Node] = section.value if section is not None and isinstance(section.value, dict) else {}
    return {name: node.value for name, node in nodes.items() if isinstance(node.value, str)}


def _referred(node: Node) -> Iterator[str]:
    """The environment variables that stand anywhere in the file as `os.environ/NAME`."""
    if isinstance(node.value, str) and node.value.startswith("os.environ/"):
        yield node.value.removeprefix("os.environ/")
    below = node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    for each in below:
        yield from _referred(each)


def _lead_on(drafts: dict[str, Draft], found: Found) -> None:
    """Fallbacks, then aliases, so that an alias falls back as the model does that it stands for."""
    stands_for = {name: target for _, name, target in found.aliases if name not in drafts}
    wanted = [
        (at, stands_for.get(name, name), [stands_for.get(target, target) for target in targets])
        for at, name, targets in found.fallbacks
    ]
    with_own = {name for _, name, _ in wanted}
    originals = {name: replace(draft, places=list(draft.places)) for name, draft in drafts.items()}
    falling = set(drafts) if found.default_fallbacks else with_own
    plain = {name for name, draft in drafts.items() if len(draft.places) == 1 and name not in falling}
    for at, name, targets in wanted:
        refused = [why for target in targets if (why := fall_back(drafts, originals, plain, name, target))]
        _tell(at, refused, len(targets), "deployments of weight 0")
    for at, target in found.default_fallbacks:
        name = stands_for.get(target, target)
        others = [each for each in drafts if each not in with_own and each != name]
        refused = [why for each in others if (why := fall_back(drafts, originals, plain, each, name))]
        _tell(at, refused, len(others), "deployments of weight 0 of every model without fallbacks of its own")
    for at, name, target in found.aliases:
        why = alias(drafts, plain, name, target)
        _tell(at, [why] if why else [], 1, "a model of its own, served as the other")


def _tell(at: At, refused: list[str], wanted: int, taken: str) -> None:
    if not refused and wanted:
        at.taken(taken)
    elif len(refused) < wanted:
        at.differently(f"{taken}, {len(refused)} of {wanted} left out: {refused[0]}")
    else:
        at.not_taken(refused[0] if refused else "names no model")


def _bound_attempts(drafts: Mapping[str, Draft], found: Found) -> None:
    deployments = max((len(draft.places) for draft in drafts.values()), default=0)
    attempts = other_settings.attempts_for(found.retries, deployments)
    if attempts > _DEFAULT_ATTEMPTS:
        found.settings["GATEWAY_ATTEMPTS_MAX"] = str(attempts)
