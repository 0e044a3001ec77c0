"""``meshnet-init``: small, privileged, quick. Parses, calls, prints, exits.

``meshnet init`` hands its arguments to the same parser: click's import alone would take most
of the time that a whole run may (docs/performance.md).
"""

from __future__ import annotations

import io
import os
import sys

from meshnet import __version__
from meshnet.cli.arguments import read_arguments, usage
from meshnet.cli.flags import FLAGS
from meshnet.cli.gather import gather
from meshnet.errors import MeshnetError, UsageError
from meshnet.model.intent import DEFAULT_UID, Intent, read_intent
from meshnet.model.values import Value, read_bool, read_choice, read_duration, read_port
from meshnet.render.log import Log, as_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from meshnet.ops.program import Options

_TRAFFIC = frozenset(flag.name for flag in FLAGS if flag.traffic)
#: What a cleanup looks at: nothing else that is set may keep it from its work.
_CLEANUP = frozenset(
    {"cleanup-only", "dry-run", "target", "network-namespace", "output", "lock-wait"}
) | {"verbose", "log-as-json"}
_BOOLEANS = tuple(flag.name for flag in FLAGS if flag.kind == "bool")


def main(argv: Sequence[str] | None = None, prog: str = "meshnet-init") -> NoReturn:
    """Run, and raise SystemExit with the exit code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv, os.environ, prog))


def start() -> NoReturn:
    """The program's entry point: as :func:`main`, but ends at once.

    Taking the interpreter apart would cost a tenth of a whole run.
    """
    code = run(sys.argv[1:], os.environ)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                code = code or 1
    os._exit(code)


def run(argv: Sequence[str], environment: Mapping[str, str], prog: str = "meshnet-init") -> int:
    """The exit code of ``prog`` with these arguments and variables."""
    # Until the arguments are read, this has to do.
    early = any(word in ("--log-as-json", "--log-as-json=true") for word in argv)
    log = Log(prog, as_json=early or environment.get("MESHNET_LOG_AS_JSON") == "true")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        given = read_arguments(argv, prog)
        if "help" in given or "version" in given:
            _say(usage(prog) if "help" in given else f"{prog} {__version__}\n")
            return 0
        settings = gather(given, environment, only=_CLEANUP)
        if not _is_on(settings, "cleanup-only"):
            settings = gather(given, environment)
        switches = {name: _is_on(settings, name) for name in _BOOLEANS}
        log = Log(prog, as_json=switches["log-as-json"], verbose=switches["verbose"])
        return _run(settings, switches, environment, log)
    except MeshnetError as e:
        log.error(str(e))
        return e.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130


def _is_on(settings: Mapping[str, Value], name: str) -> bool:
    return name in settings and read_bool(settings[name])


def _run(
    settings: Mapping[str, Value],
    switches: Mapping[str, bool],
    environment: Mapping[str, str],
    log: Log,
) -> int:
    form = read_choice(settings.get("output", Value("text", "--output")), "text", "json")
    options = _options(settings, switches)
    timeout = read_duration(settings.get("probe-timeout", Value("5s", "--probe-timeout")))
    port = read_port(settings.get("iptables-probe-port", Value("15002", "--iptables-probe-port")))
    netns = _netns(settings)
    intent = _intent(settings, environment, netns, switches["cleanup-only"])
    for name in ("reconcile", "force-apply"):
        if switches[name]:
            log.info(f"--{name} has nothing left to do: every run converges")
    for warning in intent.warnings if intent else ():
        log.warn(warning)
    if switches["skip-rule-apply"] and not switches["run-validation"]:
        log.info("--skip-rule-apply: nothing was applied, and nothing validated")
    if switches["run-validation"] and options.dry_run:
        log.info("validation is left out of a dry run: it makes connections")
    document: dict[str, Any] = {}
    code = 0
    if not switches["skip-rule-apply"] or intent is None:
        document = _program(intent, options, netns, form, environment, log)
    if switches["run-validation"] and intent is not None and not options.dry_run:
        report = _validate(intent, netns, port, timeout, form, log)
        document = {**document, "validation": report} if document else report
        code = 126 if report["failed"] else 0
    if form == "json" and document:
        _say(as_json(document) + "\n")
    return code


def _say(text: str) -> None:
    """Write to standard output, all of it, or raise MeshnetError."""
    if sys.stdout is None:
        raise MeshnetError("standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as e:
        # What could not be written would be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise MeshnetError(f"cannot write to standard output: {e.strerror}") from e


def _options(settings: Mapping[str, Value], switches: Mapping[str, bool]) -> Options:
    from meshnet.ops.choose import BINARIES
    from meshnet.ops.program import Options

    backend = read_choice(
        settings.get("backend", Value("auto", "--backend")), "auto", "legacy", "nft-compat", "nft"
    )
    asked = {settings["backend"].origin: backend} if "backend" in settings else {}
    if switches["native-nftables"]:
        asked[settings["native-nftables"].origin] = "nft"
    if "force-iptables-binary" in settings:
        binary = settings["force-iptables-binary"]
        asked[binary.origin] = BINARIES[read_choice(binary, *BINARIES)]
    wanted = {name for name in asked.values() if name != "auto"}
    if len(wanted) > 1:
        said = ", ".join(f"{flag} means {name}" for flag, name in asked.items() if name != "auto")
        raise UsageError(f"two backends are asked for: {said}", "name one")
    return Options(
        backend=wanted.pop() if wanted else "auto",
        migrate=switches["migrate"],
        comments=switches["comments"],
        dry_run=switches["dry-run"],
        lock_wait=read_duration(settings.get("lock-wait", Value("30s", "--lock-wait"))),
    )


def _intent(
    settings: Mapping[str, Value],
    environment: Mapping[str, str],
    netns: str | None,
    cleanup: bool,
) -> Intent | None:
    """The intent, with what only this machine knows filled in; None for a cleanup."""
    from meshnet.model.frozen import replace

    if cleanup:
        return None
    chosen = {name: v for name, v in settings.items() if name in _TRAFFIC or name == "profile"}
    name = environment.get("ENVOY_USER") or "istio-proxy"
    intent = read_intent(chosen, _group_id, Value(_user_id(name) or DEFAULT_UID, "$ENVOY_USER"))
    if intent.dns_from_resolver:
        from meshnet.host.resolver import RESOLV_CONF, dns_servers, resolv_conf_of

        path = resolv_conf_of(netns)
        intent = replace(intent, spec=replace(intent.spec, dns_servers=dns_servers(path)))
        if netns is not None and path == RESOLV_CONF:
            said = f"the DNS servers are those of this machine's {path}: --dns-server names others"
            intent = replace(intent, warnings=(*intent.warnings, said))
    if intent.spec.dns and intent.spec.dns_servers == ():
        said = "DNS is not captured: no server is named, and --capture-all-dns is off"
        intent = replace(intent, warnings=(*intent.warnings, said))
    return intent


def _user_id(name: str) -> str:
    import pwd

    try:
        return str(pwd.getpwnam(name).pw_uid)
    except (KeyError, ValueError):
        return ""


def _group_id(name: str) -> int | None:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def _netns(settings: Mapping[str, Value]) -> str | None:
    target, path = settings.get("target"), settings.get("network-namespace")
    if target is not None and path is not None and path.text:
        raise UsageError(f"{target.origin} and {path.origin} both name a namespace", "give one")
    from meshnet.host.target import netns_at, netns_of

    if target is not None:
        return netns_of(target.text, target.origin)
    return netns_at(path.text, path.origin) if path is not None and path.text else None


def _program(
    intent: Intent | None,
    options: Options,
    netns: str | None,
    form: str,
    environment: Mapping[str, str],
    log: Log,
) -> dict[str, Any]:
    from meshnet.ops.initialize import initialize
    from meshnet.render import work as render

    work = initialize(intent, options, netns)
    log.detail(f"backend {work['backend']}: {work['why']}")
    for note in work["notes"]:
        log.warn(note)
    profile = intent.spec.profile.value if intent else ""
    if options.dry_run:
        text = render.as_input(work)
        _keep_copy(text, environment.get("DRY_RUN_FILE_PATH", ""))
        if form == "text":
            _say(text)
    elif form == "text":
        log.info(render.as_sentence(work, profile))
    return render.as_document(work, options.dry_run, profile)


def _keep_copy(text: str, path: str) -> None:
    if path:
        try:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        except OSError as e:
            raise MeshnetError(f"$DRY_RUN_FILE_PATH: cannot write {path!r}: {e.strerror}") from e


def _validate(
    intent: Intent,
    netns: str | None,
    port: int,
    timeout: float,
    form: str,
    log: Log,
) -> dict[str, Any]:
    from meshnet.ops.validate import validate
    from meshnet.render import validation as render

    report = validate(intent, netns, port, timeout)
    if form == "text":
        _say(render.as_text(report) + "\n")
    if report["failed"]:
        log.error(f"validation failed: {report['cause']}")
    return render.as_document(report)
