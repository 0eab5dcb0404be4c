import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY, type SimulationNodeDatum } from 'd3-force';

export interface Point { x: number; y: number }

interface Body extends SimulationNodeDatum { id: string }

/**
 * Places those of ids that have none yet: near what they talk to, away from each other. The others stay
 * where they are. The same question has the same answer.
 */
export function arrange(ids: string[], lines: { from: string; to: string; weight: number }[], placed: ReadonlyMap<string, Point>, near: (id: string) => Point | undefined = () => undefined): Map<string, Point> {
	const bodies: Body[] = [...ids].sort().map((id) => {
		const at = placed.get(id);
		if (at) return { id, x: at.x, y: at.y, fx: at.x, fy: at.y };
		const start = near(id);
		return start ? { id, x: start.x + hash(id, 1), y: start.y + hash(id, 2) } : { id };
	});
	if (bodies.every((b) => b.fx !== undefined)) return new Map(placed);
	const there = new Set(ids);
	// Both directions are one link, and many links pull no more than few.
	const degree = new Map<string, number>();
	const links = new Map<string, { source: string; target: string; weight: number }>();
	for (const l of lines) {
		if (!there.has(l.from) || !there.has(l.to) || l.from === l.to) continue;
		const [source, target] = l.from < l.to ? [l.from, l.to] : [l.to, l.from];
		const link = links.get(`${source}\n${target}`);
		if (link) link.weight = Math.max(link.weight, l.weight);
		else {
			links.set(`${source}\n${target}`, { source, target, weight: l.weight });
			for (const id of [source, target]) degree.set(id, (degree.get(id) ?? 0) + 1);
		}
	}
	const simulation = forceSimulation(bodies).stop()
		.force('link', forceLink<Body, { source: string | Body; target: string | Body; weight: number }>([...links.values()]).id((b) => b.id).distance(105)
			.strength((l) => {
				const ends = [l.source, l.target].map((e) => degree.get(typeof e === 'string' ? e : e.id) ?? 1);
				return (0.15 + 0.85 * l.weight) / Math.min(...ends);
			}))
		.force('apart', forceManyBody<Body>().strength(-650).distanceMax(1200))
		.force('room', forceCollide<Body>(38))
		.force('x', forceX<Body>(0).strength(0.03))
		.force('y', forceY<Body>(0).strength(0.14)); // a screen is wider than high
	simulation.tick(bodies.length > 200 ? 120 : 300);
	return new Map([...placed, ...bodies.map((b) => [b.id, { x: Math.round(b.x!), y: Math.round(b.y!) }] as const)]);
}

/** A few pixels, always the same for an id. */
function hash(id: string, salt: number): number {
	let n = salt * 2654435761;
	for (let i = 0; i < id.length; i++) n = Math.imul(n ^ id.charCodeAt(i), 16777619);
	return ((n >>> 8) % 80) - 40;
}

/** Where people have put things, as far as the browser keeps it. */
export class Places {
	private static readonly key = 'pcapper-map';
	private static readonly most = 2000;
	readonly at = new Map<string, Point>();

	constructor(private storage: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'> | null) {
		try {
			const kept: unknown = JSON.parse(this.storage?.getItem(Places.key) ?? '{}');
			for (const [id, p] of Object.entries(kept as Record<string, unknown>).slice(0, Places.most)) {
				if (Array.isArray(p) && p.length === 2 && p.every((v) => typeof v === 'number' && Math.abs(v) < 1e5)) this.at.set(id, { x: p[0] as number, y: p[1] as number });
			}
		} catch {
			// What another program has left there is none of ours.
		}
	}

	keep(): void {
		try {
			this.storage?.setItem(Places.key, JSON.stringify(Object.fromEntries([...this.at].slice(-Places.most).map(([id, p]) => [id, [Math.round(p.x), Math.round(p.y)]]))));
		} catch {
			// Then they last as long as the page.
		}
	}

	forget(): void {
		this.at.clear();
		try {
			this.storage?.removeItem(Places.key);
		} catch {
			// As above.
		}
	}
}
