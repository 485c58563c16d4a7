"""Looks at each page of the console in a headless browser, does each act once, and keeps pictures of what it saw.

Started by `cargo xtask screenshots` with the address of a program's console, its token, the address of a console that hides
fields and only reads, and a folder. It fails where a page is wider than
its window, where a script throws or anything is refused by the content security policy, and where an act has no effect.
"""

import os
import re
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

BASE, TOKEN, BESIDE, FOLDER = sys.argv[1:5]
PAGES = {
    "overview": "",
    "stream": "?page=stream&stream=orders",
    "group": "?page=group&stream=orders&group=search",
    "halted": "?page=group&stream=payments&group=ledger",
    "letters": "?page=letters&stream=orders&group=fraud",
    "choose": "?page=letters",
    "shapes": "?page=shapes",
    "shape": "?page=shapes&stream=imports&event=Import@1",
    "publish": "?page=publish&stream=imports",
    "handlers": "?page=handlers&handler=orders%2Ffraud%2Fcheck",
    "trace": "?page=trace&id=checkout-70&within=all",
    "server": "?page=server",
    "unknown": "?page=group&stream=orders&group=serach",
}
SIZES = {"wide": (1440, 900), "narrow": (360, 740)}


def browser_of(playwright):
    path = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


def watched(context, problems):
    """A page whose errors are problems."""
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))

    def said(message):
        # A page that asks for what is not there, or publishes what does not fit, logs the status.
        if message.type == "error" and "404" not in message.text and "422" not in message.text:
            problems.append(f"{page.url}: {message.text}")

    page.on("console", said)
    page.on("dialog", lambda dialog: (problems.append(f"a script ran: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda asked: asked.url.startswith((BASE, BESIDE, "data:")) or problems.append(f"asks {asked.url}"))
    return page


def fits(page, name, problems):
    width, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    if width > window:
        problems.append(f"{name} is {width} wide in a window of {window}")


def pictures(browser, problems):
    for scheme in ["light", "dark"]:
        for size, (width, height) in SIZES.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = watched(context, problems)
            page.goto(BASE)
            expect(page.locator("#live.on")).to_be_visible()
            # Rates and charts need several looks.
            expect(page.locator(".tile").nth(4)).to_contain_text("/s", timeout=60_000)
            page.wait_for_timeout(8_000)
            for name, search in PAGES.items():
                page.evaluate("search => document.dispatchEvent(new CustomEvent('go', { detail: { search } }))", search)
                page.wait_for_timeout(1_200)
                if name in ("stream", "letters"):
                    page.locator("tbody").last.locator("tr.pick").nth(2).click()
                    expect(page.locator(".side dl").first).to_be_visible()
                    page.mouse.move(0, 0)
                    page.evaluate("scrollTo(0, 0)")
                name = f"{name}-{size}-{scheme}"
                fits(page, name, problems)
                page.screenshot(path=os.path.join(FOLDER, name + ".png"))
            page.goto(BESIDE + PAGES["stream"])
            page.locator("tbody").last.locator("tr.pick").first.click()
            expect(page.locator(".side pre")).to_contain_text('"customer": "***"')
            fits(page, "hidden", problems)
            page.screenshot(path=os.path.join(FOLDER, f"hidden-{size}-{scheme}.png"))
            context.close()


def answer(page, text):
    """Says yes in the dialog, whose words must hold a text."""
    dialog = page.locator("#dialog[open]")
    expect(dialog).to_contain_text(text)
    dialog.locator("button.main").click()


def acts(browser, problems):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = watched(context, problems)
    page.goto(BASE + PAGES["group"])
    page.get_by_role("button", name="Sign in").click()
    page.locator("input[name=token]").fill(TOKEN)
    page.locator("input[name=by]").fill("tester")
    answer(page, "Sign in to act")
    expect(page.locator("#sign")).to_have_text("Sign out")

    page.get_by_role("button", name="Pause").click()
    page.locator("input[name=why]").fill("<i>a look</i>")
    answer(page, "Pause search?")
    expect(page.locator(".note.warn")).to_contain_text("tester: <i>a look</i>")
    page.get_by_role("button", name="Resume").click()
    answer(page, "Resume search?")
    expect(page.locator(".note.warn")).to_have_count(0)

    page.get_by_role("button", name="Reset").click()
    page.locator("input[name=to]").fill("earliest")
    answer(page, "go on from?")
    expect(page.locator("#dialog[open]")).to_contain_text("Come again")
    page.screenshot(path=os.path.join(FOLDER, "reset-wide-light.png"))
    answer(page, "Reset search to earliest?")
    expect(page.locator("#toast")).to_contain_text("search goes on from earliest")

    page.goto(BASE + PAGES["halted"])
    expect(page.locator(".note.bad").first).to_contain_text("halted since")
    page.goto(BASE + PAGES["letters"])
    page.locator("tbody input[type=checkbox]").first.check()
    page.get_by_role("button", name="Replay 1").click()
    answer(page, "Replay 1 dead letters?")
    expect(page.locator("#toast")).to_contain_text("1 sent to be handled again")
    edits(page)
    page.locator("tbody tr.pick").first.click()
    page.get_by_role("button", name=re.compile("^Discard all")).click()
    answer(page, "removed for good")
    expect(page.locator("#toast")).to_contain_text("discarded")

    page.goto(BASE + "?page=group&stream=payments&group=old-reports")
    page.get_by_role("button", name="Remove").click()
    page.locator("input[name=name]").fill("old-reports")
    answer(page, "Remove old-reports from payments?")
    expect(page.get_by_role("searchbox")).to_be_visible()
    expect(page.locator("tbody").first).not_to_contain_text("old-reports")

    page.keyboard.press("/")
    page.keyboard.type("ledger")
    expect(page).to_have_url(re.compile("filter=ledger"))
    expect(page.locator("tbody").first.locator("tr")).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page.locator("h1")).to_have_text("Server")

    publishes(page)
    traces(page)
    stops(page)
    # The newest entries come by themselves.
    page.goto(BASE + PAGES["stream"])
    first = page.locator("tbody").nth(1).locator("tr").first.text_content()
    page.get_by_label("Live").check()
    expect(page.locator("tbody").nth(1).locator("tr").first).not_to_have_text(first or "")
    context.close()


def edits(page):
    """A dead letter with another payload: refused while it does not fit, then handled again."""
    page.goto(BASE + PAGES["letters"])
    page.locator("tr.pick:has(input[type=checkbox])").first.click()
    page.get_by_role("button", name="Edit and replay").click()
    payload = page.get_by_label("the payload as JSON")
    before = payload.input_value()
    payload.fill(before.replace('"cents"', '"cent"'))
    page.get_by_role("button", name="Check and replay").click()
    expect(page.locator(".side .note.bad")).to_contain_text("perhaps `cents` is meant")
    page.screenshot(path=os.path.join(FOLDER, "edit-wide-light.png"))
    # A number that a browser would round.
    payload.fill(re.sub(r'"cents": ?\d+', '"cents": 9007199254740993', before))
    page.get_by_role("button", name="Check and replay").click()
    expect(page.locator("#dialog[open]")).to_contain_text("as programs have recorded it")
    page.screenshot(path=os.path.join(FOLDER, "edit-asked-wide-light.png"))
    answer(page, "Edit and replay this dead letter?")
    expect(page.locator("#toast")).to_contain_text("with its new payload")


def publishes(page):
    """An event from the form, from JSON, and one that does not fit."""
    page.goto(BASE + "?page=shapes")
    page.get_by_role("link", name="Import@1").click()
    page.get_by_role("link", name="Try it").click()
    page.get_by_label(re.compile("^number ")).fill("18446744073709551615")
    page.get_by_label(re.compile("^weight ")).fill("heavy")
    page.get_by_label(re.compile("^items ")).fill('["a book"]')
    page.get_by_role("button", name="Check and publish").click()
    expect(page.locator("main .note.bad")).to_contain_text("`weight`: expected f64, found a string")
    page.get_by_label(re.compile("^weight ")).fill("0.5")
    page.get_by_label("Headers").fill("correlation_id=tried")
    page.get_by_role("button", name="Check and publish").click()
    expect(page.locator("#dialog[open]")).to_contain_text("importer")
    page.screenshot(path=os.path.join(FOLDER, "publishes-wide-light.png"))
    answer(page, "Publish 1 Import@1 to imports?")
    expect(page.locator(".note.good")).to_contain_text("Published as entry 0/")
    page.get_by_role("link", name="Look at it").click()
    expect(page.locator(".side pre")).to_contain_text('"number": 18446744073709551615')
    page.goto(BASE + "?page=publish&stream=orders")
    page.get_by_role("tab", name="JSON").click()
    page.get_by_label("the event as JSON").fill('{"id": 1, "customer": "<i>eve</i>", "cents": 1, "note": "", "more": 1}')
    page.get_by_role("button", name="Check and publish").click()
    expect(page.locator("main .note.bad")).to_contain_text("there is no field `more`")
    page.get_by_label("the event as JSON").fill('{"id": 1, "customer": "<i>eve</i>", "cents": 1, "note": ""}')
    page.get_by_role("button", name="Check and publish").click()
    answer(page, "Publish 1 Order@1 to orders?")
    expect(page.locator(".note.good")).to_be_visible()


def traces(page):
    page.goto(BASE + "?page=trace")
    page.get_by_label("id", exact=True).fill("tried")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("main .tools").last).to_contain_text("1 of ")
    expect(page.locator("tbody")).to_contain_text("importer settled")
    page.locator("tbody").get_by_role("link", name="imports").click()
    expect(page.locator(".side")).to_contain_text("tried")


def stops(page):
    """A replay of 100,000 letters, stopped on its way."""
    page.goto(BASE + "?page=letters&stream=imports&group=importer")
    page.get_by_role("button", name=re.compile("^Replay all")).click()
    expect(page.locator("#dialog[open]")).to_contain_text("100,000")
    answer(page, "The group alone handles these events again")
    job = page.locator("#jobs .job")
    expect(job).to_contain_text(re.compile("[1-9][0-9,]* done"))
    page.screenshot(path=os.path.join(FOLDER, "job-wide-light.png"))
    job.get_by_role("button", name="Stop").click()
    expect(page.locator("#toast")).to_contain_text("then stopped")
    expect(job).to_have_count(0)
    # The page looks anew when the job is over.
    expect(page.locator(".head .quiet")).not_to_contain_text("100,000 in all")
    left = int(re.sub("[^0-9]", "", page.locator(".head .quiet").text_content().split(" in all")[0]))
    assert 0 < left < 100_000, left


def main():
    os.makedirs(FOLDER, exist_ok=True)
    problems = []
    with sync_playwright() as playwright:
        browser = browser_of(playwright)
        if "--acts" not in sys.argv:
            pictures(browser, problems)
        acts(browser, problems)
        browser.close()
    for problem in problems:
        print("problem:", problem, file=sys.stderr)
    print(f"{len(os.listdir(FOLDER))} pictures in {FOLDER}")
    sys.exit(1 if problems else 0)


main()
