"""A notebook in JupyterLab in Chromium, driven as a person would: opened, run, its sliders moved, its pictures and maps clicked.

    with Lab(folder) as lab:                          # server, browser, settings: all in folder, all gone afterwards
        nb = lab.open('explore.ipynb')
        nb.run_all()
        picture = nb.page.locator('.widget-image')
        before = nb.shot(picture)
        nb.slider('threshold').move(+3)
        nb.changed(picture, before)                   # waits for other pixels, returns their share
        nb.click_at(picture, .25, .5)
        nb.wait_text('row 64')
        nb.check()                                    # nothing asked of another host, no error in the console or in a cell
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

NEEDED = 'jupyterlab', 'playwright', 'ipywidgets', 'ipyleaflet'
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
         '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1']
SETTINGS = {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True),
            'notebook-extension/tracker': dict(windowingMode='none', recordTiming=False),
            'docmanager-extension/plugin': dict(autosave=False)}
LOCAL = {'127.0.0.1', 'localhost', ''}
TIMEOUT = 60


def chromium():
    "Path of the first Chromium on PATH, or None"
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing():
    "What driving a notebook lacks here, by name; empty where nothing does"
    lacks = [name for name in NEEDED if not find_spec(name)]
    return ', '.join(lacks + ([] if chromium() else [f'a Chromium ({", ".join(BROWSERS)}) on PATH']))


def wait_for(what, condition, timeout=TIMEOUT, pause=.1):
    "The first true value of `condition()`; AssertionError that names `what` after `timeout` seconds"
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f'{what}: not within {timeout} s'
        time.sleep(pause)
    return value


class Slider:
    "A slider of ipywidgets, told by its description and moved by keyboard"
    def __init__(self, nb, name):
        self.box = nb.page.locator('.widget-slider').filter(has=nb.page.locator('.widget-label', has_text=name))
        self.handle = self.box.locator('.noUi-handle').first

    @property
    def value(self):
        "What its readout says"
        return self.box.locator('.widget-readout').inner_text()

    def move(self, steps):
        "Press an arrow key `steps` times, to the left where negative, and return the readout"
        self.handle.focus()
        for _ in range(abs(steps)): self.handle.press('ArrowRight' if steps > 0 else 'ArrowLeft')
        return self.value


class Notebook:
    "A notebook in a page of its own"
    def __init__(self, lab, path):
        self.lab, self.path, self.console, self.outside = lab, path, [], []
        self.page = page = lab.context.new_page()
        page.set_default_timeout(TIMEOUT * 1000)
        page.on('console', lambda m: m.type == 'error' and self.console.append(f'{m.text} ({m.location["url"]})'))
        page.on('pageerror', lambda e: self.console.append(str(e)))
        page.on('request', lambda r: urlsplit(r.url).hostname in LOCAL or r.url.startswith(('data:', 'blob:')) or self.outside.append(r.url))
        page.goto(f'{lab.url}/doc/tree/{quote(path)}?token={lab.token}', wait_until='commit')
        self.panel = page.locator('.jp-NotebookPanel')
        self.panel.wait_for()
        self.idle()

    def idle(self, timeout=TIMEOUT):
        "Wait until the kernel is there and has nothing to do"
        self.page.wait_for_function("""() => {
            const k = window.jupyterapp?.shell.currentWidget?.context?.sessionContext
            return k?.isReady && k.session?.kernel?.status == 'idle'}""", timeout=timeout * 1000)

    def run_all(self, timeout=TIMEOUT):
        "Run all cells, wait for the end, and fail on a cell that raised"
        self.page.evaluate("() => { window.ran = false; jupyterapp.commands.execute('notebook:run-all-cells').finally(() => window.ran = true) }")
        self.page.wait_for_function('() => window.ran', timeout=timeout * 1000)
        self.idle(timeout)
        assert not (e := self.errors()), f'{self.path}: ' + '\n'.join(e)

    def errors(self):
        "Tracebacks under cells"
        return self.page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"], .jp-OutputArea-output.jp-mod-error').all_inner_texts()

    def slider(self, name): return Slider(self, name)

    def click_at(self, locator, fx, fy):
        "Click at a fraction of an element's width and height"
        locator.scroll_into_view_if_needed()
        box = locator.bounding_box()
        self.page.mouse.click(box['x'] + fx * box['width'], box['y'] + fy * box['height'])

    def shot(self, locator):
        "An element's pixels, as the array (height, width, 3)"
        return np.asarray(Image.open(BytesIO(locator.screenshot())).convert('RGB'))

    def changed(self, locator, before, timeout=TIMEOUT):
        "Wait until an element looks otherwise than `before`, and return the share of pixels that do"
        def share():
            now = self.shot(locator)
            return 1. if now.shape != before.shape else float((now != before).any(-1).mean())
        return wait_for('other pixels', share, timeout)

    def wait_text(self, text, timeout=TIMEOUT):
        "Wait until the notebook shows a text"
        self.panel.get_by_text(text).first.wait_for(timeout=timeout * 1000)

    def check(self):
        "Nothing was asked of another host, nothing went wrong in the page, no cell raised"
        assert not self.outside, f'asked of other hosts: {self.outside}'
        assert not self.console, f'errors in the console: {self.console}'
        assert not (e := self.errors()), e

    def close(self): self.page.close()


class Lab:
    "JupyterLab on a free port of this machine and a Chromium, for notebooks under `folder`; both end with the context"
    def __init__(self, folder, state=None):
        self.folder, self.state = Path(folder), Path(state or Path(folder)/'.state')
        self.server = self.playwright = self.browser = None

    def __enter__(self):
        try: return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_): self.stop()

    def start(self):
        from playwright.sync_api import sync_playwright
        dirs = {name: self.state/name.lower() for name in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR',
                                                           'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR')}
        for d in dirs.values(): d.mkdir(parents=True, exist_ok=True)
        for name, values in SETTINGS.items():
            f = dirs['JUPYTERLAB_SETTINGS_DIR']/'@jupyterlab'/f'{name}.jupyterlab-settings'
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_text(json.dumps(values))
        self.log = self.state/'server.log'
        with open(self.log, 'w') as log:
            self.server = subprocess.Popen(
                [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', '--ServerApp.port_retries=50',
                 f'--ServerApp.root_dir={self.folder.resolve()}', '--ServerApp.terminals_enabled=False', '--LabApp.expose_app_in_browser=True',
                 '--LabApp.extension_manager=readonly', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {k: str(v) for k, v in dirs.items()})
        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        self.context = self.browser.new_context(viewport=dict(width=1400, height=1000))
        info = wait_for('JupyterLab', lambda: self.announced(dirs['JUPYTER_RUNTIME_DIR']))
        self.url, self.token = info['url'].rstrip('/'), info['token']
        wait_for('JupyterLab', lambda: self.ask('/api/status'))
        return self

    def announced(self, runtime):
        "What the server writes about itself once it listens"
        assert self.server.poll() is None, f'JupyterLab ended at once:\n{self.log.read_text()[-2000:]}'
        for f in runtime.glob('jpserver-*.json'):
            try: return json.loads(f.read_text())
            except ValueError: pass

    def ask(self, path, method='GET'):
        try:
            with urlopen(Request(self.url + path, method=method, headers={'Authorization': f'token {self.token}'}), timeout=10) as r: return r.status
        except (URLError, OSError): return None

    def open(self, path): return Notebook(self, str(path))

    def stop(self):
        "End browser, kernels and server, whatever state they are in"
        if self.browser: self.browser.close()
        if self.playwright: self.playwright.stop()
        if self.server and self.server.poll() is None:
            if getattr(self, 'token', None): self.ask('/api/shutdown', 'POST')
            else: self.server.terminate()
            try: self.server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.server.pid, signal.SIGKILL)
                self.server.wait()
