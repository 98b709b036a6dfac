"""MetricsMonitor, the hooks that feed it, and the webhook, without any engine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

import foresighted as fpo
from foresighted.errors import ConfigError
from foresighted.integrations.monitoring.monitor import MetricsMonitor
from foresighted.integrations.monitoring.webhook import post


def _metrics(step):
    noise = np.random.default_rng(step).normal(0, 0.02, 2)
    return {"gold": np.float32(1 - 0.1 * max(0, step - 20) + noise[0]), "reward": 0.1 * step + noise[1], "text": "x"}


class Tracking:
    """As verl's: `log(data, step, backend)`."""

    def __init__(self):
        self.kept = []

    def log(self, data, step, backend=None):
        self.kept.append(step)


class OfOpenRLHF:
    def save_logs_and_checkpoints(self, args, global_step, step_bar, logs_dict=None, client_states=None):
        return global_step


def test_a_logger_of_verl_is_watched_and_still_logs(tmp_path):
    tracking = Tracking()
    monitor = fpo.watch(tracking, "gold", out=tmp_path)
    for step in range(40):
        tracking.log(data=_metrics(step), step=step)
    assert tracking.kept == list(range(40))
    assert monitor.verdict.verdict == "collapsed"
    (said,) = (tmp_path / "collapse.jsonl").read_text().splitlines()
    assert json.loads(said)["step"] == monitor.verdict.step <= 34


def test_a_class_is_watched_in_each_of_its_instances():
    class Own(Tracking):
        pass

    assert fpo.watch(Own, "gold") is Own
    first, second = Own(), Own()
    for step in range(40):
        first.log(_metrics(step), step)
        second.log({"gold": 1.0 + 0.01 * (step % 3), "reward": 0.1}, step)
    assert first.foresighted_monitor.verdict is not None
    assert second.foresighted_monitor.verdict is None


def test_a_trainer_of_openrlhf_is_watched():
    trainer = OfOpenRLHF()
    monitor = fpo.watch(trainer, "gold")
    for step in range(40):
        assert trainer.save_logs_and_checkpoints(None, step, None, _metrics(step), {"episode": 1}) == step
    assert monitor.verdict is not None


def test_a_monitor_that_fails_stops_no_loop(tmp_path, caplog):
    tracking = Tracking()
    (tmp_path / "file").write_text("")
    fpo.watch(tracking, "gold", out=tmp_path / "file" / "below")
    for step in range(40):
        tracking.log(_metrics(step), step)
    assert len(tracking.kept) == 40
    assert "the loop goes on unwatched" in caplog.text


def test_what_is_no_loop_is_refused():
    with pytest.raises(ConfigError, match=r"got int, expected a TRL trainer, verl's Tracking, an OpenRLHF trainer"):
        fpo.watch(3)
    with pytest.raises(ConfigError, match="'windw'"):
        fpo.watch(Tracking(), windw=5)
    with pytest.raises(ConfigError, match="window: got 2"):
        fpo.watch(Tracking, window=2)


@pytest.mark.slow  # imports trl
def test_a_trainer_of_trl_gets_a_callback_that_trusts_the_reward_of_weight_zero():
    pytest.importorskip("trl")
    added = []
    trainer = SimpleNamespace(
        add_callback=added.append, args=SimpleNamespace(reward_weights=[1.0, 0.0]),
        reward_func_names=["model", "judge"], reward_funcs=[],
    )  # fmt: skip
    monitor = fpo.watch(trainer, action="stop")
    assert added == [monitor]
    assert (monitor.gold, monitor.action) == ("rewards/judge/mean", "stop")
    trainer.args.reward_weights = None
    assert fpo.watch(trainer).gold is None


@pytest.fixture
def service():
    """A server that keeps what it is sent; `answer` is the code that it gives."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        answer = 200

        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(Handler.answer)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(got=got, handler=Handler, address=f"http://127.0.0.1:{server.server_port}/secret/path")
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_alarm_is_sent_once(service):
    monitor = MetricsMonitor("gold", webhook=service.address)
    for step in range(40):
        monitor.log(step, _metrics(step) | {"gold": float(_metrics(step)["gold"])})
    (alarm,) = service.got
    assert (alarm["verdict"], alarm["step"]) == ("collapsed", monitor.verdict.step)
    assert alarm["text"].startswith(f"foresighted: step {alarm['step']}: collapsed: gold fell by")


@pytest.mark.parametrize("code", [302, 404, 500])
def test_a_refused_alarm_is_told_without_the_address(code, service):
    service.handler.answer = code
    told = post(service.address, {"step": 1})
    assert f"answered {code}" in told
    assert "secret" not in told
    assert len(service.got) == 1


def test_an_address_that_is_none_or_that_nobody_answers():
    for bad in ("ftp://x/secret", "hooks.example/secret", "http://", "http://[secret", "http://x:secret/"):
        with pytest.raises(ConfigError, match="webhook: got no http") as told:
            MetricsMonitor(webhook=bad)
        assert "secret" not in str(told.value)
    told = post("http://127.0.0.1:9/secret", {})
    assert "127.0.0.1 was not reached" in told
    assert "secret" not in told


def test_kl_that_grows_from_nothing_is_no_symptom(caplog):
    monitor = MetricsMonitor(window=3)
    for step in range(40):
        monitor.log(step, {"kl": 0.001 * step, "reward": 0.1})
    assert not caplog.records
