// Screenshot writes a picture of the page at a URL, once it shows traffic, to a PNG file:
//
//	go run ./scripts/screenshot URL FILE
//
// With -views, pictures of all views, whole, in light and dark and as on a phone, to a directory:
//
//	go run ./scripts/screenshot -views URL DIRECTORY
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

func main() {
	views := flag.Bool("views", false, "")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: screenshot [-views] URL FILE")
		os.Exit(2)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1400, 1000))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	shoot := shootOne
	if *views {
		shoot = shootAll
	}
	if err := shoot(ctx, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, "screenshot:", err)
		os.Exit(1)
	}
}

// shown is true once the page shows traffic. What moves comes to rest then.
const shown = `/\d\s*[kMG]?(bit\/s|B\/s)/.test(document.body.innerText) && !/Waiting for|Loading/.test(document.body.innerText)`

// await is not chromedp.Poll, which the page's policy on scripts forbids.
func await(condition string, patience time.Duration) chromedp.ActionFunc {
	return func(ctx context.Context) error {
		for end, done := time.Now().Add(patience), false; !done; {
			if err := chromedp.Evaluate(condition, &done).Do(ctx); err != nil {
				return err
			}
			if !done && time.Now().After(end) {
				return fmt.Errorf("not within %v: %s", patience, condition)
			}
			if err := chromedp.Sleep(200 * time.Millisecond).Do(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

func shootOne(ctx context.Context, url, file string) error {
	var png []byte
	err := chromedp.Run(ctx, chromedp.Navigate(url), await(shown, time.Minute), chromedp.Sleep(2*time.Second), chromedp.CaptureScreenshot(&png))
	if err != nil {
		return fmt.Errorf("the page shows no traffic: %w", err)
	}
	return os.WriteFile(file, png, 0o644)
}

// shootAll takes pictures of all views: VIEW-light.png, -dark.png and -phone.png.
func shootAll(ctx context.Context, url, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var views []string
	err := chromedp.Run(ctx, chromedp.Navigate(url), await(`document.querySelector('.link-state.connected') !== null`, time.Minute),
		chromedp.Evaluate(`[...document.querySelectorAll('.tab')].map((t) => t.dataset.view)`, &views))
	if err != nil {
		return err
	}
	for _, look := range []struct {
		name, theme string
		width       int64
		height      int64
		scale       float64
	}{{"light", "light", 1400, 1000, 1}, {"dark", "dark", 1400, 1000, 1}, {"phone", "light", 390, 844, 2}} {
		size := emulation.SetDeviceMetricsOverride(look.width, look.height, look.scale, look.name == "phone")
		for _, view := range views {
			var png []byte
			err := chromedp.Run(ctx, size, chromedp.Navigate("about:blank"), chromedp.Navigate(url+"#"+view+"?theme="+look.theme),
				await(`document.querySelector('.page.`+view+`') !== null && document.querySelector('.link-state.connected') !== null`, time.Minute),
				chromedp.Sleep(2500*time.Millisecond), chromedp.FullScreenshot(&png, 100))
			if err != nil {
				return fmt.Errorf("%s, %s: %w", view, look.name, err)
			}
			if err := os.WriteFile(filepath.Join(dir, view+"-"+look.name+".png"), png, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
