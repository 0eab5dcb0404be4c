// Screenshot writes a picture of the page at a URL, once it shows traffic, to a PNG file:
//
//	go run ./scripts/screenshot URL FILE
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/chromedp/chromedp"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: screenshot URL FILE")
		os.Exit(2)
	}
	if err := shoot(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "screenshot:", err)
		os.Exit(1)
	}
}

func shoot(url, file string) error {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1400, 1000))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	const shows = `/\d\s*[kMG]?bit\/s/.test(document.body.innerText) && !document.body.innerText.includes("Waiting for")`
	// Not chromedp.Poll, which the page's policy on scripts forbids.
	await := func(ctx context.Context) error {
		for done := false; !done; {
			if err := chromedp.Evaluate(shows, &done).Do(ctx); err != nil {
				return fmt.Errorf("the page shows no traffic: %w", err)
			}
			if err := chromedp.Sleep(200 * time.Millisecond).Do(ctx); err != nil {
				return fmt.Errorf("the page shows no traffic: %w", err)
			}
		}
		return nil
	}
	var png []byte
	err := chromedp.Run(ctx,
		chromedp.Navigate(url),
		chromedp.ActionFunc(await),
		chromedp.Sleep(2*time.Second), // until what moves has come to rest
		chromedp.CaptureScreenshot(&png),
	)
	if err != nil {
		return err
	}
	return os.WriteFile(file, png, 0o644)
}
