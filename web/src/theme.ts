// Runs before the page is drawn, so that it is never drawn in the wrong theme.
(() => {
	let choice: string | null = null;
	const inURL = /[?&]theme=(light|dark)\b/.exec(location.hash);
	try {
		choice = inURL?.[1] ?? localStorage.getItem('pcapper-theme');
	} catch {
		// Storage may be forbidden; then the system's choice is taken.
	}
	if (choice === 'light' || choice === 'dark') document.documentElement.dataset.theme = choice;
})();
