import type { HostCounts, PathFlow, PathLink, PathMap, Setup } from '../model';

/** Something that is drawn as one: a host, or several of them. */
export interface Dot {
	/** A node's name, or a cluster's after a slash. */
	id: string;
	label: string;
	/** Names of nodes. */
	nodes: string[];
	sent: number;
	relayed: number;
	received: number;
	/** Share of what its queues and its own forwarding lost, and how many packets. */
	drops: { share: number; lost: number };
	down: boolean;
	/** In a chosen flow. */
	role: '' | 'source' | 'relay' | 'member' | 'overhearer' | 'receiver';
	/** Of a chosen flow's packets that it received; null if that makes no sense. */
	share: number | null;
	/** It wants the chosen flow and receives nothing. */
	silent: boolean;
	/** Not part of what is chosen. */
	dim: boolean;
}

/** What went from one dot to another. */
export interface Line {
	from: string;
	to: string;
	/** The row that most bytes are of. */
	row: number;
	bytes: number;
	packets: number;
	lost: number;
	/** Lost of what could be observed, 0 to 1. */
	loss: number;
	/** Not where the flow goes now. */
	old: boolean;
}

export interface Scene { dots: Dot[]; lines: Line[] }

/** What may be lost before it is drawn: a packet or two under way look like a loss. */
export const lossy = (l: { loss: number; lost: number }): boolean => l.lost >= 3 && l.loss >= 0.005;

/** Above so many nodes, those of a subnet are drawn as one. */
export const mostNodes = 60;

/** What was delivered of what arrived or was lost; null if nothing could be observed. */
export function delivered(b: { delivered: number; lost: number }): number | null {
	const all = b.delivered + b.lost;
	return all > 0 ? b.delivered / all : null;
}

/** The hop that loses the largest share, of at least some packets. */
export function worstHop(links: PathLink[], least = 20): { from: string; to: string; loss: number; lost: number; all: number } | null {
	let worst: ReturnType<typeof worstHop> = null;
	for (const l of links) {
		let lost = 0;
		let all = 0;
		for (const f of l.flows) {
			lost += f.lost;
			all += f.lost + f.packets;
		}
		if (all < least || lost < 3) continue;
		const loss = lost / all;
		if (!worst || loss > worst.loss) worst = { from: l.from, to: l.to, loss, lost, all };
	}
	return worst;
}

/** Which of the groups a node is in: the first rule that makes some, but not too many. */
export function clusters(nodes: { name: string; address: string }[], most = mostNodes): Map<string, string> {
	const of = new Map<string, string>();
	if (nodes.length <= most) return of;
	const ipv4 = (n: { address: string }) => /^(\d+)\.(\d+)\.(\d+)\.(\d+)/.exec(n.address);
	const rules: ((n: { name: string; address: string }) => string)[] = [
		(n) => { const m = ipv4(n); return m ? `${m[1]}.${m[2]}.${m[3]}.0/24` : n.address.split(':').slice(0, 4).join(':'); },
		(n) => n.name.replace(/[\d._-]*$/, '').slice(0, 24) || n.name,
		(n) => { const m = ipv4(n); return m ? `${m[1]}.${m[2]}.${m[3]}.${Number(m[4]) & 0xe0}/27` : n.address.slice(0, 24); },
		(n) => { const m = ipv4(n); return m ? `${m[1]}.${m[2]}.0.0/16` : n.address.split(':').slice(0, 3).join(':'); },
	];
	for (const rule of rules) {
		const sizes = new Map<string, number>();
		for (const n of nodes) sizes.set(rule(n), (sizes.get(rule(n)) ?? 0) + 1);
		if (sizes.size < 2 || sizes.size > most) continue;
		for (const n of nodes) if (sizes.get(rule(n))! > 1) of.set(n.name, rule(n));
		return of;
	}
	// Nothing tells them apart: as they come.
	const size = Math.ceil(nodes.length / 12);
	nodes.forEach((n, i) => of.set(n.name, `${n.name && nodes[Math.floor(i / size) * size]!.name} …`));
	return of;
}

export interface Given {
	setup: Setup;
	map: PathMap;
	/** Counts of hosts, by their numbers. */
	counts: HostCounts[];
	/** By number: agents that do not answer. */
	down: (host: number) => boolean;
	hidden: ReadonlySet<number>;
	/** Groups that are drawn as their nodes. */
	open: ReadonlySet<string>;
	chosen: { flow: PathFlow; row: number } | null;
}

/** What is drawn. */
export function build(g: Given): Scene {
	const index = new Map(g.setup.hosts.map((host, i) => [host.label, i]));
	const nodes = [...new Map<string, number[]>([...g.map.nodes.map((n) => [n.name, n.agents.flatMap((a) => index.get(a) ?? [])] as [string, number[]]),
		...(g.map.nodes.length ? [] : g.setup.hosts.map((host, i) => [host.label, [i]] as [string, number[]]))])];
	const known = nodes.filter(([, hosts]) => hosts.some((i) => !g.setup.hosts[i]!.former));
	const groups = clusters(known.map(([name, hosts]) => ({ name, address: hosts.length ? g.setup.hosts[hosts[0]!]!.address : '' })));
	const counts = new Map(g.counts.map((c) => [c.host, c]));
	const dots = new Map<string, Dot>();
	const dotOf = new Map<string, Dot>();
	for (const [name, hosts] of known) {
		const group = groups.get(name);
		const folded = group !== undefined && !g.open.has(group);
		const id = folded ? `/${group}` : name;
		let dot = dots.get(id);
		if (!dot) {
			const first = hosts.length === 1 ? g.setup.hosts[hosts[0]!] : undefined;
			dot = { id, label: folded ? group : first ? first.name || first.label : name, nodes: [], sent: 0, relayed: 0, received: 0, drops: { share: 0, lost: 0 }, down: true, role: '', share: null, silent: false, dim: false };
			dots.set(id, dot);
		}
		dot.nodes.push(name);
		dotOf.set(name, dot);
		for (const i of hosts) {
			const c = counts.get(i);
			dot.sent += c?.sent.bits ?? 0;
			dot.relayed += c?.relayed.bits ?? 0;
			dot.received += c?.received.bits ?? 0;
			if (!g.down(i)) dot.down = false;
		}
	}
	const lines = g.chosen ? chosenLines(g.chosen, dotOf) : allLines(g, dotOf);
	if (g.chosen) chooseDots(g.chosen.flow, [...dots.values()], dotOf, lines);
	return { dots: [...dots.values()], lines };
}

function add(lines: Map<string, Line & { rows: Map<number, number> }>, from: string, to: string, row: number, c: { packets: number; bytes: number; lost: number }, old: boolean): void {
	const key = `${from}\n${to}`;
	let line = lines.get(key);
	if (!line) {
		line = { from, to, row, bytes: 0, packets: 0, lost: 0, loss: 0, old: true, rows: new Map() };
		lines.set(key, line);
	}
	line.bytes += c.bytes;
	line.packets += c.packets;
	line.lost += c.lost;
	line.old &&= old;
	line.rows.set(row, (line.rows.get(row) ?? 0) + c.bytes + c.lost);
}

/** Sums and the heaviest row of each; what stays within a dot is its drops. */
function finish(lines: Map<string, Line & { rows: Map<number, number> }>, dots: Map<string, Dot>): Line[] {
	const out: Line[] = [];
	for (const { rows, ...line } of lines.values()) {
		line.loss = line.lost / Math.max(1, line.packets + line.lost);
		line.row = [...rows].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0]![0];
		if (line.from !== line.to) out.push(line);
		else if (dots.get(line.from)) dots.get(line.from)!.drops = { share: line.loss, lost: line.lost };
	}
	return out;
}

function allLines(g: Given, dotOf: Map<string, Dot>): Line[] {
	const lines = new Map<string, Line & { rows: Map<number, number> }>();
	const dots = new Map<string, Dot>();
	for (const l of g.map.links) {
		const from = dotOf.get(l.from);
		const to = l.to ? dotOf.get(l.to) : from; // what is lost behind it counts as its own
		if (!from || !to) continue;
		dots.set(from.id, from);
		if (from === to && from.nodes.length > 1 && l.from !== l.to) continue; // within a group
		for (const f of l.flows) if (!g.hidden.has(f.row)) add(lines, from.id, to.id, f.row, f, false);
	}
	return finish(lines, dots);
}

function chosenLines({ flow, row }: { flow: PathFlow; row: number }, dotOf: Map<string, Dot>): Line[] {
	const lines = new Map<string, Line & { rows: Map<number, number> }>();
	const dots = new Map<string, Dot>();
	const last = [...flow.paths ?? []].sort((a, b) => b.last_ns - a.last_ns)[0]?.nodes;
	for (const hop of flow.hops) {
		const from = dotOf.get(hop.from.node);
		const to = hop.to ? dotOf.get(hop.to.node) : from;
		if (!from || !to) continue;
		dots.set(from.id, from);
		const old = !flow.multicast && !!last && !!hop.to && hop.to.node !== hop.from.node
			&& !last.some((n, i) => n === hop.from.node && last[i + 1] === hop.to!.node);
		add(lines, from.id, to.id, row, hop, old);
	}
	return finish(lines, dots);
}

function chooseDots(flow: PathFlow, dots: Dot[], dotOf: Map<string, Dot>, lines: Line[]): void {
	const used = new Set(lines.flatMap((l) => [l.from, l.to]));
	for (const dot of dots) dot.dim = !used.has(dot.id);
	for (const r of flow.nodes ?? []) {
		const dot = dotOf.get(r.node);
		if (!dot) continue;
		dot.dim = false;
		if (dot.nodes.length > 1) continue;
		dot.role = r.role;
		dot.share = r.role === 'source' ? null : r.share;
		dot.silent = r.role === 'member' && r.received === 0;
	}
	if (!flow.multicast) {
		const first = flow.paths?.[0]?.nodes;
		for (const p of flow.paths ?? []) {
			p.nodes.forEach((n, i) => {
				const dot = dotOf.get(n);
				if (dot && dot.nodes.length === 1) dot.role = i === 0 ? 'source' : i === p.nodes.length - 1 ? 'receiver' : 'relay';
			});
		}
		const end = first && dotOf.get(first[first.length - 1]!);
		if (end && end.nodes.length === 1) end.share = flow.arrived / Math.max(1, flow.arrived + flow.lost);
	}
}
