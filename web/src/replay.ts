import { h, icon, style, text, toggle } from './dom';
import type { Feed } from './feed';
import { moment, seconds } from './format';
import type { Replay } from './model';

/** Steers logs that are played; nothing is there to see if agents are dialled. */
export class ReplayBar {
	readonly el: HTMLElement;
	private time = h('b', {});
	private note = h('span', { class: 'replay-note' });
	private speed = h('span', { class: 'speed' });
	private done = h('i', {});
	private playIcon = icon('M7 5l8 5-8 5z');
	private pauseIcon = icon('M7.500 5v10M12.500 5v10');
	private pause: HTMLButtonElement;
	private skip: HTMLButtonElement;
	private forward: HTMLButtonElement;
	private slower: HTMLButtonElement;
	private faster: HTMLButtonElement;

	constructor(private feed: Feed) {
		const button = (label: string, title: string, what: () => void, ...children: (Node | string)[]) =>
			h('button', { type: 'button', title, 'aria-label': label, onclick: what }, ...children);
		this.pause = button('Pause the replay', 'Pause the replay (R)', () => this.toggle(), this.playIcon, this.pauseIcon);
		this.slower = button('Slower', 'Half the speed ([)', () => this.steer('slower'), '−');
		this.faster = button('Faster', 'Twice the speed (])', () => this.steer('faster'), '+');
		this.forward = button('Forward by a minute', 'Forward by a minute of the logs\u2019 time', () => this.steer('forward', 60), '+1\u00a0min');
		this.skip = button('Skip to the next traffic', 'Skip to the next traffic (N)', () => this.steer('next'), icon('M5 5l6 5-6 5zM14 5v10'), 'next traffic');
		this.el = h('section', { class: 'replay', 'aria-label': 'Replay', hidden: true },
			this.pause, h('div', { class: 'pace' }, this.slower, this.speed, this.faster), this.forward, this.skip,
			h('div', { class: 'where' }, this.time, this.note), h('div', { class: 'track' }, this.done));
	}

	toggle(): void {
		if (this.feed.frame?.replay) this.steer(this.feed.frame.replay.paused ? 'resume' : 'pause');
	}

	steer(command: string, by = 0): void {
		if (!this.feed.frame?.replay) return;
		void this.feed.steer(command, by);
	}

	draw(): void {
		const r = this.feed.frame?.replay;
		this.el.hidden = !r;
		if (!r) return;
		text(this.time, r.position ? moment(r.position) : 'reading the logs');
		text(this.note, state(r));
		text(this.speed, r.speed ? `×${Number(r.speed.toPrecision(4))}` : 'max');
		this.speed.title = r.speed ? `${r.speed} times the original speed` : 'as fast as possible';
		toggle(this.el, 'stopped', r.paused || r.ended);
		const label = r.paused ? 'Resume the replay' : 'Pause the replay';
		this.pause.setAttribute('aria-label', label);
		this.pause.title = `${label} (R)`;
		this.pause.disabled = this.forward.disabled = r.ended;
		this.skip.hidden = r.ended || r.seeking || r.gap < 60;
		style(this.done, 'width', `${100 * r.part}%`);
	}
}

function state(r: Replay): string {
	const part = `${Math.floor(100 * r.part)}\u202f%`;
	if (r.ended) return 'at the end of the logs';
	if (r.seeking) return `${part}, on the way`;
	const words = [part];
	if (r.paused) words.push('paused');
	if (r.gap >= 60) words.push(`no traffic for ${seconds(r.gap)}`);
	return words.join(', ');
}
