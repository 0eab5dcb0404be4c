import { clock, day, whole } from '../format';
import type { Detail } from '../model';

/** Something that is wrong with an agent's records. */
export interface Problem {
	text: string;
	title: string;
	severe: boolean;
}

const words = { packets: 'packets', flows: 'one-second flows', top: 'top flows of ten seconds and sums of the rest' };

/** That less than packets is kept of a host, and why; that some are not kept at all. */
export function kept(d: Detail | null): Problem[] {
	const list: Problem[] = [];
	if (d && d.level !== 'packets') {
		const since = d.since ? `Since ${day(d.since)} ${clock(d.since)}` : 'From the start';
		const reason = d.limit === 'rule' ? 'as configured' : `there were ${d.why}`;
		const end = d.limit === 'rule' ? '' : ' Packets are kept again when it has been calm for a while.';
		list.push(d.limit === 'bus' ? {
			text: d.level === 'flows' ? 'only flows' : 'only top flows', severe: false,
			title: `${since}, this host\u2019s collector passes on ${words[d.level]} instead of packets. All sums are exact`
				+ (d.level === 'top' ? '; they are spread evenly over the ten seconds, as their exact times are not known.' : '.'),
		} : {
			text: d.level === 'flows' ? 'only flows kept' : 'only top flows kept', severe: false,
			title: `${since}, the history stores ${words[d.level]} of this host instead of packets: ${reason} (-detail${d.limit === 'rule' ? '' : ` ${d.limit}`}).`
				+ ` All sums stay exact, and this page shows all that arrives.${end}`,
		});
	}
	if (d && d.lost > 0) {
		list.push({ text: 'not all kept', severe: true, title: `${whole(d.lost)} records ${d.limit === 'bus' ? 'were dropped before they arrived here' : 'arrived faster than they could be stored and are missing from the history'}.` });
	}
	return list;
}

/** The same in few words, or none. */
export function keptWords(d: Detail | null): string[] {
	if (!d || d.level === 'packets') return [];
	return [`only ${words[d.level]} kept: ${d.why}`];
}
