"""A notebook in JupyterLab in Chromium, driven as a person would: opened, run, its sliders moved, its pictures and maps clicked.

    with Lab(folder) as lab:                          # server, browser and all they write: in folder, and ended with the context
        nb = lab.open('explore.ipynb')
        nb.run_all()
        before = nb.shot(nb.pictures.first)           # any locator of playwright's will do
        nb.slider('threshold').move(+3)
        nb.changed(nb.pictures.first, before)         # waits for other pixels and returns their share
        nb.click_at(nb.maps.first, .25, .5)
        nb.wait_text('row 64')                        # in the outputs, not in the source
        nb.check()                                    # nothing asked of another host, no error in the console, a cell or a callback
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
from fastcore.nbio import new_nb, write_nb
from PIL import Image

NEEDED = 'jupyterlab', 'playwright', 'ipywidgets', 'ipyleaflet'
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
         '--disable-sync', '--no-proxy-server', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1']
LAB = ['--no-browser', '--allow-root', '--ip=127.0.0.1', '--ServerApp.port_retries=50', '--ServerApp.terminals_enabled=False',
       '--LabApp.expose_app_in_browser=True', '--LabApp.extension_manager=readonly', '--LabApp.news_url=',
       '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
SETTINGS = {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True),
            'notebook-extension/tracker': dict(windowingMode='none'),
            'docmanager-extension/plugin': dict(autosave=False)}
STATE = 'JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR'
WINDOW = dict(width=1400, height=1200)
KERNEL = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
TIMEOUT = 90


def chromium():
    "Path of the first Chromium on PATH that starts, or None; what some distributions call by that name only points to a store"
    for path in filter(None, map(shutil.which, BROWSERS)):
        if not subprocess.run([path, '--version'], stdin=subprocess.DEVNULL, capture_output=True).returncode: return path


def missing():
    "What driving a notebook lacks here, by name; empty where nothing does"
    return ', '.join([o for o in NEEDED if not find_spec(o)] + ([] if chromium() else [f'a Chromium ({", ".join(BROWSERS)}) on PATH']))


def wait_for(what, condition, timeout=TIMEOUT):
    "The first true value of `condition()`; AssertionError that names `what` after `timeout` seconds"
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f'{what}: not within {timeout} s'
        time.sleep(.1)
    return value


class Slider:
    "A slider of ipywidgets, told by its description and moved by keyboard"
    def __init__(self, nb, name):
        label = nb.page.locator('.widget-label', has_text=re.compile(rf'^\s*{re.escape(name)}\s*$'))
        self.box = nb.outputs.locator('.widget-slider').filter(has=label).first
        self.handle, self.readout = self.box.locator('.noUi-handle').first, self.box.locator('.widget-readout')

    @property
    def value(self):
        "What it reads, as text"
        return self.readout.inner_text()

    def move(self, steps):
        "Press an arrow key `steps` times, to the left where negative; returns the value"
        self.handle.focus()
        for _ in range(abs(steps)): self.handle.press('ArrowRight' if steps > 0 else 'ArrowLeft')
        return self.value

    def type(self, value):
        "Write a value into the readout; returns what the slider made of it"
        self.readout.fill(str(value))
        self.readout.press('Enter')
        return self.value


class Notebook:
    "A notebook in a page of its own; `page` is playwright's"
    def __init__(self, lab, path):
        self.path, self.console, self.outside = path, [], []
        self.page = page = lab.context.new_page()
        page.on('console', lambda o: o.type == 'error' and self.console.append(f'{o.text} ({o.location["url"]})'))
        page.on('pageerror', lambda o: self.console.append(str(o)))
        page.on('request', lambda o: self.asked(o.url))
        page.on('websocket', lambda o: self.asked(o.url))
        page.goto(f'{lab.url}doc/tree/{quote(path)}?reset&token={lab.token}', wait_until='commit')
        panel = page.locator('.jp-NotebookPanel')
        panel.wait_for()
        self.outputs = panel.locator('.jp-OutputArea')
        self.pictures = self.outputs.locator('.widget-image')
        self.maps = self.outputs.locator('.leaflet-container')
        self.polygons = self.maps.locator('.leaflet-overlay-pane path')
        self.idle()
        page.evaluate("""() => {
            window.raised = []
            jupyterapp.shell.currentWidget.context.sessionContext.iopubMessage.connect((_, o) =>
                o.header.msg_type == 'error' && window.raised.push(`${o.content.ename}: ${o.content.evalue}`))}""")

    def asked(self, url):
        "Remember what another host was asked for"
        o = urlsplit(url)
        if o.scheme not in ('data', 'blob') and o.hostname != '127.0.0.1': self.outside.append(url)

    def idle(self, timeout=TIMEOUT):
        "Wait until the kernel is there and has done what it was asked so far"
        wait_for('an idle kernel', lambda: self.page.evaluate("""async () => {
            const session = window.jupyterapp?.shell.currentWidget?.context?.sessionContext
            if (!session?.isReady || session.session?.kernel?.status != 'idle') return false
            await session.session.kernel.requestKernelInfo()
            return session.session.kernel.status == 'idle'}"""), timeout)

    def run_all(self, timeout=TIMEOUT):
        "Run all cells and wait for the end; AssertionError with what a cell raised"
        self.page.evaluate("() => {window.ran = false; jupyterapp.commands.execute('notebook:run-all-cells').finally(() => window.ran = true)}")
        self.page.wait_for_function('() => window.ran', timeout=timeout * 1000)
        self.idle(timeout)
        raised = self.raised()
        assert not raised, f'{self.path}: ' + '; '.join(raised)

    def raised(self):
        "What was raised in the kernel so far: by a cell, or by the callback of a widget, which shows nowhere in the page"
        return self.page.evaluate('() => window.raised')

    def slider(self, name):
        "The slider with a description"
        return Slider(self, name)

    def press(self, name):
        "Press the button, or the toggle button, with a description"
        self.outputs.get_by_role('button', name=name, exact=True).first.click()

    def box(self, locator):
        "Bring an element to the middle of the window, always to the same place; returns its x, y, width and height there"
        # not scrollIntoView, which would also move a map under its frame
        locator.evaluate("""o => {
            for (let p = o.parentElement; p; p = p.parentElement) {
                if (!['auto', 'scroll'].includes(getComputedStyle(p).overflowY)) continue
                const a = o.getBoundingClientRect(), b = p.getBoundingClientRect()
                p.scrollTop += a.top + a.height / 2 - b.top - b.height / 2
            }}""")
        box = locator.bounding_box()
        assert box['height'] < WINDOW['height'] - 150 and box['width'] < WINDOW['width'] - 100, f'does not fit the window: {box}'
        return box

    def click_at(self, locator, fx, fy):
        "Click at a fraction of an element's width and height"
        box = self.box(locator)
        self.page.mouse.click(box['x'] + fx * box['width'], box['y'] + fy * box['height'])

    def draw(self, locator, points):
        "Draw a polygon on a map with a draw control, through fractions of its width and height"
        locator.locator('.leaflet-pm-icon-polygon, .leaflet-draw-draw-polygon').click()
        for i, point in enumerate(points, 1):
            self.page.wait_for_timeout(100) # leaflet-draw takes no corner for 50 ms after the last one
            self.click_at(locator, *point)
            wait_for(f'corner {i}', lambda: locator.locator('.leaflet-marker-pane .marker-icon, .leaflet-marker-pane .leaflet-div-icon').count() >= i)
        self.page.wait_for_timeout(100)
        self.click_at(locator, *points[0])

    def shot(self, locator):
        "An element's pixels (height, width, 3), once they stay the same"
        self.box(locator)
        self.page.mouse.move(0, 0)
        seen = [None]
        def still():
            seen.append(np.asarray(Image.open(BytesIO(locator.screenshot())).convert('RGB')))
            return np.array_equal(*seen[-2:])
        wait_for('a still picture', still)
        return seen[-1]

    def changed(self, locator, before, timeout=TIMEOUT):
        "Wait until an element looks otherwise than `before`; returns the share of its pixels that do"
        def share():
            now = self.shot(locator)
            return 1. if now.shape != before.shape else float((now != before).any(-1).mean())
        return wait_for('other pixels', share, timeout)

    def wait_text(self, text, timeout=TIMEOUT):
        "Wait until the outputs show a text, or what a regular expression finds"
        self.outputs.get_by_text(text).first.wait_for(timeout=timeout * 1000)

    def check(self):
        "AssertionError with all that went wrong so far: asked of another host, an error in the console, raised by a cell or a callback"
        self.idle()
        faults = [f'asked of another host: {o}' for o in self.outside] + [f'in the console: {o}' for o in self.console] + self.raised()
        assert not faults, f'{self.path}: ' + '; '.join(faults)

    def close(self):
        "Close the page; the kernel ends with the server"
        self.page.close()


class Lab:
    "JupyterLab on a free port of this machine and a Chromium, for the notebooks under `folder`; both end with the context"
    def __init__(self, folder, play=None):
        self.folder, self.play = Path(folder).resolve(), play  # playwright allows one of it in a thread: a second Lab takes the first one's
        self.state = self.folder/'.state'

    def __enter__(self):
        with ExitStack() as stack:
            self.serve(stack)
            self.browse(stack)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc): self.stack.__exit__(*exc)

    def serve(self, stack):
        "Start the server and wait until it listens"
        dirs = {o: self.state/o.lower() for o in STATE}
        for o in dirs.values(): o.mkdir(parents=True)
        for name, values in SETTINGS.items():
            o = dirs['JUPYTERLAB_SETTINGS_DIR']/'@jupyterlab'/f'{name}.jupyterlab-settings'
            o.parent.mkdir(parents=True, exist_ok=True)
            o.write_text(json.dumps(values))
        env = {k: v for k, v in os.environ.items() if k not in ('MPLBACKEND', 'JUPYTER_TOKEN', 'JUPYTER_PORT')}  # figures are drawn in the page
        log = stack.enter_context(open(self.state/'server.log', 'w+'))
        self.server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *LAB, f'--ServerApp.root_dir={self.folder}'], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, env=env | {k: str(v) for k, v in dirs.items()})
        stack.callback(self.end_server)
        told = dirs['JUPYTER_RUNTIME_DIR']/f'jpserver-{self.server.pid}.json'
        def listens():
            assert self.server.poll() is None, f'JupyterLab ended at once:\n{(self.state/"server.log").read_text()[-2000:]}'
            return told.exists() and told.read_text().rstrip().endswith('}')
        wait_for('JupyterLab', listens)
        info = json.loads(told.read_text())
        self.url, self.token = info['url'], info['token']

    def end_server(self):
        "Ask the server to end itself and its kernels; one that does not is killed, and its kernels end without it"
        self.server.terminate()
        try: self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()

    def browse(self, stack):
        "Start the browser, whose files go into `state` too"
        from playwright.sync_api import sync_playwright
        home = str(self.state/'home')
        self.play = self.play or stack.enter_context(sync_playwright())
        env = os.environ | dict(HOME=home, XDG_CONFIG_HOME=home, XDG_CACHE_HOME=home)
        self.browser = self.play.chromium.launch(executable_path=chromium(), args=FLAGS, env=env)
        stack.callback(self.browser.close)
        self.context = self.browser.new_context(viewport=WINDOW)
        self.context.set_default_timeout(TIMEOUT * 1000)

    def write(self, name, *sources):
        "Write a notebook of code cells into the folder; returns its name"
        write_nb(new_nb(sources, KERNEL), self.folder/name)
        return name

    def open(self, path):
        "Open a notebook by its path under the folder, with a kernel of its own that has nothing to do yet"
        return Notebook(self, str(path))
