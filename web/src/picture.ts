// A PNG of what the view shows: its elements are painted on a canvas, as they
// are laid out, without any help from outside.

const scale = 2;

export async function picture(root: HTMLElement, caption: string): Promise<Blob> {
	const box = root.getBoundingClientRect();
	const margin = 20;
	const foot = 26;
	const width = Math.ceil(box.width + 2 * margin);
	const height = Math.min(Math.ceil(box.height + 2 * margin + foot), 12000);
	const canvas = document.createElement('canvas');
	canvas.width = width * scale;
	canvas.height = height * scale;
	const ctx = canvas.getContext('2d')!;
	ctx.scale(scale, scale);
	const styles = getComputedStyle(document.body);
	ctx.fillStyle = styles.backgroundColor;
	ctx.fillRect(0, 0, width, height);
	ctx.translate(margin - box.left, margin - box.top);
	paint(ctx, root);
	ctx.setTransform(scale, 0, 0, scale, 0, 0);
	ctx.fillStyle = styles.color;
	ctx.globalAlpha = 0.6;
	ctx.font = `12px ${styles.fontFamily}`;
	ctx.textBaseline = 'alphabetic';
	ctx.fillText(caption, margin, height - 14);
	return new Promise((resolve, reject) => {
		canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('the picture is too large'))), 'image/png');
	});
}

function paint(ctx: CanvasRenderingContext2D, el: Element): void {
	const style = getComputedStyle(el);
	if (style.display === 'none' || style.visibility === 'hidden' || el.classList.contains('tip')) return;
	const box = el.getBoundingClientRect();
	ctx.save();
	ctx.globalAlpha *= Number(style.opacity);
	const radius = Math.min(parseFloat(style.borderTopLeftRadius) || 0, box.width / 2, box.height / 2);
	ctx.beginPath();
	ctx.roundRect(box.left, box.top, box.width, box.height, radius);
	if (visible(style.backgroundColor)) {
		ctx.fillStyle = style.backgroundColor;
		ctx.fill();
	}
	const left = parseFloat(style.borderLeftWidth);
	const bottom = parseFloat(style.borderBottomWidth);
	if (left > 0 && style.borderLeftStyle !== 'none' && visible(style.borderLeftColor)) {
		ctx.strokeStyle = style.borderLeftColor;
		ctx.lineWidth = left;
		ctx.stroke();
	} else if (bottom > 0 && style.borderBottomStyle !== 'none' && visible(style.borderBottomColor)) {
		ctx.fillStyle = style.borderBottomColor;
		ctx.fillRect(box.left, box.bottom - bottom, box.width, bottom);
	}
	if (style.overflowX !== 'visible') ctx.clip();
	if (el instanceof HTMLCanvasElement) {
		if (el.width && el.height) ctx.drawImage(el, box.left, box.top, box.width, box.height);
	} else if (!(el instanceof HTMLInputElement) && !(el instanceof SVGElement)) {
		for (const child of el.childNodes) {
			if (child instanceof Element) paint(ctx, child);
			else if (child instanceof Text) paintText(ctx, child, style);
		}
	}
	ctx.restore();
}

function visible(color: string): boolean {
	return color !== 'transparent' && !/[,/]\s*0\s*\)$/.test(color);
}

/** Word by word, so that lines break where the browser broke them. */
function paintText(ctx: CanvasRenderingContext2D, node: Text, style: CSSStyleDeclaration): void {
	ctx.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
	ctx.fillStyle = style.color;
	ctx.textBaseline = 'middle';
	ctx.letterSpacing = style.letterSpacing === 'normal' ? '0px' : style.letterSpacing;
	const upper = style.textTransform === 'uppercase';
	const range = document.createRange();
	for (const match of node.data.matchAll(/[^ \n\t]+/g)) {
		range.setStart(node, match.index);
		range.setEnd(node, match.index + match[0].length);
		const box = range.getBoundingClientRect();
		if (box.width) ctx.fillText(upper ? match[0].toUpperCase() : match[0], box.left, (box.top + box.bottom) / 2 + 0.5);
	}
}

export function download(blob: Blob, name: string): void {
	const url = URL.createObjectURL(blob);
	const a = document.createElement('a');
	a.href = url;
	a.download = name;
	a.click();
	setTimeout(() => URL.revokeObjectURL(url), 10000);
}
