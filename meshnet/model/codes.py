"""The catalogue of findings: what each code means, how it is seen, how it is mended.

The definitions are here once; ``meshnet codes``, docs/codes.md and every finding read them.
"""

from __future__ import annotations

from meshnet.model.finding import Severity
from meshnet.model.frozen import dataclass


@dataclass(frozen=True)
class Code:
    """A kind of defect. ``severity`` is the usual one; a single finding may be milder.

    ``title`` is a phrase without a full stop, ``cause`` how it comes about, ``evidence`` by
    what it is seen, ``mend`` what to do; the last three are plain paragraphs.
    """

    code: str
    severity: Severity
    title: str
    cause: str
    evidence: str
    mend: str


CODES: tuple[Code, ...] = (
    Code(
        "MN101",
        Severity.ERROR,
        "a proxy runs and nothing is redirected",
        "The init container did not run, failed or ran in another namespace; the rules were "
        "flushed afterwards; or the node was rebooted and the pod's namespace made anew. The pod "
        "works, and nothing of it goes through the sidecar.",
        "A process is known as a sidecar (by its name, or because it has the UID 1337 and listens "
        "on a proxy's usual port), and no redirect or TPROXY rule of any backend can be reached "
        "from a hook. A proxy by name that listens on none of the usual ports may be a gateway, "
        "which needs no rules: then the finding is a note.",
        "Run meshnet-init in this namespace, or restart the pod so that its init container runs.",
    ),
    Code(
        "MN102",
        Severity.WARNING,
        "rules in two backends",
        "The rules were written by two programs that do not see each other: iptables-legacy and "
        "iptables-nft, or one of them and nft. The kernel runs both; which one goes first depends "
        "on which was registered last, and no dump shows it.",
        "One of legacy, nft-compat and nft holds redirect rules of ours, and another one has them "
        "as well, or rules of others that capture whatever nobody names.",
        "Run meshnet-init once more with the --backend that is to stay, and --migrate: it takes "
        "its rules out of the others. A foreign redirect has to be removed by whoever made it.",
    ),
    Code(
        "MN103",
        Severity.ERROR,
        "rules that no hook reaches",
        "A rule that leads from OUTPUT or PREROUTING into the chain was deleted, the base chain "
        "itself is gone, or the table is dormant (nft's flag: the rules are kept and no hook runs "
        "them). The listing looks healthy, and no packet comes by.",
        "A chain that selects traffic for the proxy cannot be reached by jumps from any base "
        "chain, or its table has the flag dormant.",
        "Run meshnet-init again with the same settings: it puts the missing rules back. A dormant "
        "table wakes up by `nft add table FAMILY NAME` (without flags).",
    ),
    Code(
        "MN110",
        Severity.ERROR,
        "a foreign rule decides before ours",
        "Another program (a CNI plugin, a firewall, a script) put a rule in front of the jump into "
        "our chains, or translates the address at a higher priority. What it takes never gets to "
        "the rules of the capture.",
        "A packet is made from the foreign rule's own constants and walked through the rules: with "
        "our rules alone it is captured, with all rules it is not, or by another port, and the "
        "rule that decided is not ours.",
        "Narrow the foreign rule, or move it behind the jump; running meshnet-init again does not "
        "move rules of others.",
    ),
    Code(
        "MN111",
        Severity.NOTE,
        "a rule that can never match",
        "The rules in front of it take every packet that it asks for, it asks for what no packet "
        "has that comes there, or no rule leads to its chain. Istio's own rules have such: the GID "
        "rules for lo stand behind UID rules that let everything on lo go. Whoever reads the "
        "listing believes that it does something.",
        "All packets at once are sent through the rules as formulas, and z3 proves that none makes "
        "the rule match; the fewest rules in front that suffice for the proof are named. `meshnet "
        "lint` looks for it.",
        "Move the rule in front of those that shadow it, or remove it. For Istio's: --profile "
        "strict has no rule that never matches.",
    ),
    Code(
        "MN112",
        Severity.WARNING,
        "our rules out of order",
        "Somebody moved rules of ours, or put them back one by one in another order. The first "
        "rule that matches decides, so the same rules in another order are other rules.",
        "The rules are compared, in order, with those that the closest profile makes: a rule is "
        "there, and in another place.",
        "Run meshnet-init again with the same settings: it writes the chains anew.",
    ),
    Code(
        "MN113",
        Severity.WARNING,
        "rules missing or extra against the profile that they come closest to",
        "Somebody deleted a rule of ours or added one to our chains, or a program that made "
        "similar rules was of another version.",
        "The rules are read back into settings; what the profile would make of these is compared "
        "with what is there.",
        "Run meshnet-init again with the same settings. What was added on purpose belongs into the "
        "settings (exclusions), where it survives the next run.",
    ),
    Code(
        "MN114",
        Severity.NOTE,
        "a rule that changes nothing",
        "It matches packets that the rules behind it, or the chain's end, treat in the same way: "
        "an exception that nothing needs any more, a second rule for what a first one says.",
        "It is proven that every packet is captured by the same port, let go or dropped as before "
        "when this rule alone is left out. Rules that mark, count, log or translate sources are "
        "not looked at. Of two that do the same either may go, and not both. `meshnet lint` "
        "looks for it.",
        "Remove it, look again (the next one may change something then), or leave it where it is "
        "meant for rules to come.",
    ),
    Code(
        "MN115",
        Severity.WARNING,
        "a user of the proxy that is not treated as the first one",
        "The rules were made for several proxy UIDs or GIDs, and a rule about the first decides "
        "before the others are asked. Istio's rules do so: with two UIDs, the second one's calls "
        "to its own pod are not captured.",
        "Two packets that differ in nothing but the UID (or GID), both of them the proxy's, have "
        "different fates. `meshnet lint` looks for it.",
        "Run meshnet-init with --profile strict, which asks for every UID and GID before it says "
        "anything about others; or run the proxy under one UID.",
    ),
    Code(
        "MN120",
        Severity.ERROR,
        "a process that is not the proxy has its UID or GID",
        "The image or the pod's securityContext gives the application the proxy's ID (runAsUser or "
        "runAsGroup 1337), or somebody opened a shell in the proxy's container. The rules cannot "
        "tell it from the proxy, and let all of its traffic pass.",
        "A process has a UID or GID that the rules let pass as the proxy's, and it neither listens "
        "on a redirect port nor is an ancestor or descendant, of the same UID, of one that does. "
        "IDs are compared in the user namespace that owns the network namespace.",
        "Run the process under an ID of its own. Where the application must have that ID, give "
        "the proxy another one, and meshnet-init its number (-u, -g).",
    ),
    Code(
        "MN121",
        Severity.ERROR,
        "the proxy does not have the excluded UID",
        "The proxy runs under another UID and GID than the ones that the rules let pass. What it "
        "sends out is redirected to itself: every request goes round until something overflows.",
        "A packet of the proxy's own UID and GID, to an address that is captured, is walked "
        "through the rules: it is handed to a port that the proxy itself listens on.",
        "Start the proxy under the excluded UID or GID, or give meshnet-init the proxy's (-u, -g).",
    ),
    Code(
        "MN130",
        Severity.WARNING,
        "IPv6 is up and uncaptured",
        "The rules were made for IPv4 only, as Istio does when the pod's first address is an IPv4 "
        "one, and the pod has an IPv6 address all the same. Whoever resolves to AAAA goes past the "
        "proxy.",
        "An interface that is up has a global IPv6 address; connections over IPv4 are captured, "
        "and the same over IPv6 walk through the rules to their end undisturbed.",
        "Run meshnet-init with --ipv6 on, or with --profile strict (capture, or refuse by --ipv6 "
        "drop). Where no IPv6 is wanted: net.ipv6.conf.all.disable_ipv6=1.",
    ),
    Code(
        "MN131",
        Severity.NOTE,
        "UDP 443 leaves uncaptured",
        "Sidecars capture TCP. A client that speaks HTTP/3 (QUIC) uses UDP port 443 and goes past "
        "the proxy, although its HTTPS over TCP is captured.",
        "TCP to port 443 of an address is captured, and UDP to the same port leaves as it is.",
        "Refuse it, and clients fall back to TCP: `iptables -A OUTPUT -p udp --dport 443 -m owner "
        "! --uid-owner 1337 -j REJECT` in this namespace, with the proxy's UID, and ip6tables "
        "likewise.",
    ),
    Code(
        "MN140",
        Severity.WARNING,
        "a connection older than the rules",
        "The rules came when the connection was already there. Translation is decided on a "
        "connection's first packet: a connection that is tracked without one goes past the proxy "
        "for as long as it lives; one that was never tracked is taken for new by its next packet "
        "(nf_conntrack_tcp_loose), handed to the proxy midway, and reset.",
        "An established connection that the rules of now would capture, and that connection "
        "tracking shows untranslated, or not at all. The proxy's own connections and those that "
        "stay in the namespace are left out.",
        "Have the application connect again (restart it). Rules that are there before the "
        "application starts, as an init container makes them, leave no such connections.",
    ),
    Code(
        "MN150",
        Severity.ERROR,
        "a redirect port nobody listens on",
        "The proxy is not running (any more, or yet), listens on another port than the rules "
        "redirect to, on one family only, or on an address that redirected connections do not "
        "arrive at. What is captured is refused.",
        "Connections that the rules capture are handed to a port, and no socket of that protocol "
        "and family listens there. An IPv6 socket on :: without IPV6_V6ONLY serves both families; "
        "IPv6 counts only where an interface has a global address.",
        "Start the proxy, or compare its listeners with the ports of meshnet-init (-p, -z). For "
        "IPv6: let the proxy listen on :: too, or run meshnet-init --profile strict --ipv6 allow.",
    ),
    Code(
        "MN160",
        Severity.ERROR,
        "TPROXY without its policy rule, route or sysctl",
        "TPROXY marks packets, and a policy rule sends the mark to a table with a local route to "
        "lo. Another program flushed the rule or the route, or switched on "
        "net.ipv4.conf.*.src_valid_mark (WireGuard's wg-quick does), which has the kernel look for "
        "the sender by the mark as well, find it local and drop the packet. Nor does TPROXY hand "
        "anything to a socket without IP_TRANSPARENT.",
        "A TPROXY rule of ours that a hook leads to sets a mark, and no policy rule looks it "
        "up in a table that has `local default dev lo`; or src_valid_mark is 1; or the listener is "
        "known not to be transparent.",
        "Run meshnet-init again with the same settings: it puts rule and route back. "
        "`sysctl -w net.ipv4.conf.all.src_valid_mark=0` (and for each interface). Start the proxy "
        "with CAP_NET_ADMIN, so that it can set IP_TRANSPARENT.",
    ),
)
BY_CODE = {code.code: code for code in CODES}
