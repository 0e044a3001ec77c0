"""``python -m meshnet.cli.manual``: docs/flags.md, from the same data as the parser."""

from __future__ import annotations

from meshnet.cli.flags import FLAGS, OWN, Flag

HEAD = """\
# Flags and variables of meshnet-init

A flag wins over its variable, a variable over the configuration file (docs/config.md). An empty
variable counts as none; an empty flag is a value. Boolean flags take `=true` or `=false`.
This page is made by `python -m meshnet.cli.manual`; a test holds it to the program.

"""


def manual() -> str:
    """The page."""
    lines = [HEAD, "## Istio's\n\n"]
    lines += _table([flag for flag in FLAGS if flag.name not in OWN])
    lines += ["| | `ENVOY_USER` | user whose UID is the proxy's where `-u` is not given |\n"]
    lines += ["| | `DRY_RUN_FILE_PATH` | file that gets a copy of what `--dry-run` prints |\n"]
    lines += ["\n## Ours\n\n"]
    lines += _table([flag for flag in FLAGS if flag.name in OWN and not flag.hidden])
    return "".join(lines)


def _table(flags: list[Flag]) -> list[str]:
    rows = ["| flag | variable | |\n|---|---|---|\n"]
    for flag in flags:
        short = f"`-{flag.short}` " if flag.short else ""
        name = "" if flag.hidden else f"{short}`--{flag.name}`"
        variables = " ".join(f"`{variable}`" for variable in flag.sources())
        text = (flag.help or f"see `{flag.key}` in docs/config.md").replace("|", "\\|")
        rows.append(f"| {name} | {variables} | {text} |\n")
    return rows


if __name__ == "__main__":
    print(manual(), end="")
