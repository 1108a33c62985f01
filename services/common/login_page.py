"""The page /login of every service. It needs no script and no other file, so it shows wherever the service answers.

Services without pages of their own have it too, so it is whole in itself and its template stands here.
"""

from __future__ import annotations

import jinja2

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in to {{ service }}</title>
<style nonce="{{ nonce }}">
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; color: #1b1f24; }
input, textarea, button { font: inherit; padding: .4rem .6rem; }
textarea, pre { font-family: ui-monospace, monospace; font-size: .85rem; width: 100%; box-sizing: border-box; }
pre { background: #f1f3f5; padding: .8rem; white-space: pre-wrap; word-break: break-all; user-select: all; }
.problem { border-left: .3rem solid #b42318; padding: .2rem .8rem; background: #fef3f2; }
</style>
</head>
<body>
<main>
<h1>Log in to {{ service }}</h1>
{% if problem %}<p class="problem" role="alert">{{ problem }}</p>{% endif %}
<form method="post" action="/login">
<input type="hidden" name="next" value="{{ next }}">
{% if step == "open" %}
<p>This link opens your session in this browser, once.</p>
<input type="hidden" name="code" value="{{ code }}">
<button autofocus>Log in</button>
{% elif step == "sign" %}
<p>{{ name }}, run this where your SSH key is, within two minutes:</p>
<pre id="command" tabindex="0">{{ command }}</pre>
<input type="hidden" name="challenge" value="{{ challenge }}">
<p><label for="signature">and paste what it prints:</label></p>
<p><textarea id="signature" name="signature" rows="8" required autofocus spellcheck="false"></textarea></p>
<button>Log in</button>
{% else %}
<p><label for="name">Your name in hall.toml:</label>
<input id="name" name="name" required autofocus autocomplete="username" pattern="[A-Za-z0-9][A-Za-z0-9._@\\-]*"></p>
<button>Go on</button>
<p>Shorter: <code>backline login --browser</code> on your machine prints a link that logs you in here.</p>
{% endif %}
</form>
</main>
</body>
</html>
"""
_PAGE = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined).from_string(_TEMPLATE)


def render(**values: object) -> str:
    """The page: `service`, `step` (name, sign or open), `nonce`, `next`, and what the step shows."""
    return _PAGE.render(**values)
