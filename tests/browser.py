"""A page in headless Chromium, over its DevTools protocol; tornado comes with JupyterLab."""
import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--remote-debugging-port=0")


class Page:
    "One tab. `events` keeps all that the browser reported."

    def __enter__(self) -> "Page":
        self.loop, self.count, self.events = asyncio.new_event_loop(), 0, []
        self.home = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen([CHROMIUM, *QUIET, f"--user-data-dir={self.home.name}"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        said = Path(self.home.name, "DevToolsActivePort")
        wait_for(lambda: said.exists() and said.read_text(), 30)
        port = said.read_text().split()[0]
        ask = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
        address = json.load(urllib.request.urlopen(ask))["webSocketDebuggerUrl"]
        self.socket = self.wait(lambda: websocket_connect(address, max_message_size=2**28), 30)
        for domain in ("Page", "Runtime", "Log", "Network"): self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.loop.close()
        shutil.rmtree(self.home.name, ignore_errors=True)

    def wait(self, ask, timeout: float):
        "The result of something asked on the page's own loop."
        async def answer(): return await asyncio.wait_for(ask(), timeout)
        return self.loop.run_until_complete(answer())

    def call(self, method: str, timeout: float = 60, **params) -> dict:
        "Ask the browser, and read on until it answers."
        self.count += 1
        asked = json.dumps({"id": self.count, "method": method, "params": params})
        self.wait(lambda: self.socket.write_message(asked), timeout)
        while True:
            message = json.loads(self.wait(self.socket.read_message, timeout))
            if message.get("id") == self.count:
                assert "error" not in message, message["error"]
                return message["result"]
            self.events.append(message)

    def evaluate(self, script: str, timeout: float = 60):
        "The value of a script, awaited."
        found = self.call("Runtime.evaluate", timeout, expression=script, awaitPromise=True,
                          returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, address: str, width: int = 1280, height: int = 900) -> None:
        "Go to an address, and wait until it has loaded."
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=address)
        wait_for(lambda: self.evaluate("document.readyState") == "complete", 60)

    def click(self, element: str) -> bool:
        "Click on the middle of an element, given as an expression; False where there is none."
        at = self.evaluate(f"""(() => {{ const e = {element}; if (!e) return null;
          const r = e.getBoundingClientRect();
          return [r.x + r.width / 2, r.y + r.height / 2] }})()""")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased") if at else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], clickCount=1,
                      button="none" if kind == "mouseMoved" else "left")
        return bool(at)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def requests(self) -> list[str]:
        return [e["params"]["request"]["url"] for e in self.events
                if e.get("method") == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        "Exceptions and errors of the console."
        bad = [e["params"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        bad += [e["params"] for e in self.events if e.get("method") == "Runtime.consoleAPICalled"
                and e["params"]["type"] in ("error", "assert")]
        bad += [e["params"] for e in self.events if e.get("method") == "Log.entryAdded"
                and e["params"]["entry"]["level"] == "error"]
        return [json.dumps(b)[:300] for b in bad]


def wait_for(true, seconds: float) -> None:
    "Ask until it is so."
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)
