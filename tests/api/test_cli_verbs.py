"""The command line against a real server: what a person types, what a program reads."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from bad_hub import Bad, BadHub

BIG = bytes(range(256)) * 8000


@pytest.fixture
def hub():
    hub = BadHub({"README.md": b"# Hi\n", "big.gguf": BIG}, lfs=["big.gguf"])
    yield hub
    hub.close()


def test_push_ls_rm(server, tmp_path):
    folder = tmp_path / "my-model"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("# Mine\n")
    (folder / "sub" / "weights.bin").write_bytes(BIG)
    done = server.cli("push", str(folder), "admin/mine")
    assert done.stdout.strip() == f"{folder} is in {server.url}/admin/mine"
    assert done.stderr == ""
    files = json.loads(server.cli("ls", "admin/mine", "--json").stdout)["files"]
    assert {"README.md", "sub/weights.bin"} <= {f["path"] for f in files}
    assert "sub/weights.bin" in server.cli("ls", "admin/mine").stdout
    listing = server.cli("ls").stdout.splitlines()
    assert listing[0].split() == ["REPO", "SIZE", "FORMATS", "SERVED", "CHANGED"]
    assert any(line.startswith("admin/mine") for line in listing)
    one = tmp_path / "rows.jsonl"
    one.write_text('{"a": 1}\n')
    pushed = json.loads(
        server.cli("push", str(one), "admin/rows", "--type", "dataset", "--private", "--json").stdout
    )
    assert pushed["url"] == f"{server.url}/datasets/admin/rows"
    assert "(private)" in server.cli("ls", "--type", "dataset").stdout
    refused = server.cli("rm", "admin/rows", "--type", "dataset", check=False)
    assert refused.returncode == 2 and "add --yes" in refused.stderr
    server.cli("rm", "admin/rows", "--type", "dataset", "--yes")
    gone = server.cli("ls", "admin/rows", "--type", "dataset", check=False)
    assert gone.returncode == 1 and gone.stderr.startswith("Error: ")
    missing = server.cli("push", str(tmp_path / "none"), "admin/x", check=False)
    assert missing.returncode == 1 and "There is no file or folder" in missing.stderr


def test_pull_and_jobs(server, hub):
    done = server.cli("pull", "org/model", "--from", hub.url)
    assert done.stdout == (
        "org/model is here: 2 files, 2.05 MB.\nMake it answer with `fust serve org/model`.\n"
    )
    assert "100%" in done.stderr
    run = json.loads(server.cli("pull", "org/model", "--from", hub.url, "--json").stdout)
    assert run["state"] == "succeeded" and run["result"]["fetched_bytes"] == 0
    detached = json.loads(server.cli("pull", "org/model", "--from", hub.url, "-d", "--json").stdout)
    assert detached["state"] == "queued"
    followed = server.cli("jobs", detached["id"], "--follow")
    assert "Pull org/model: succeeded" in followed.stdout
    listing = server.cli("jobs").stdout
    assert listing.splitlines()[0].split() == ["RUN", "WHAT", "STATE", "PROGRESS", "ASKED"]
    assert detached["id"] in listing
    assert server.cli("jobs", detached["id"], "--log").returncode == 0
    failed = server.cli("pull", "org/model", "--from", hub.url, "--file", "x.gguf", check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        "Error: org/model has no file 'x.gguf'. It has, among others: big.gguf."
    )
    late = server.cli("jobs", detached["id"], "--cancel", check=False)
    assert late.returncode == 1 and "has ended already" in late.stderr


def test_cancel(server, hub):
    hub.files["big.gguf"] = BIG[::-1]
    hub.bad["big.gguf"] = Bad(pause_s=0.1)
    run = json.loads(server.cli("pull", "org/slow", "--from", hub.url, "-d", "--json").stdout)
    assert "asked to end" in server.cli("jobs", run["id"], "--cancel").stdout
    ended = server.cli("jobs", run["id"], "--follow", check=False)
    assert ended.returncode == 1 and "ended as cancelled" in ended.stderr


def test_tokens_and_users(server):
    secret = server.cli("tokens", "new", "laptop", "--scope", "read").stdout.strip()
    assert secret.startswith("fust_")
    assert server.request("GET", "/fust/v1/runs", token=secret)[0] == 200
    listed = json.loads(server.cli("tokens", "--json").stdout)["items"]
    assert secret not in json.dumps(listed)
    assert "laptop" in server.cli("tokens", "list").stdout
    server.cli("tokens", "revoke", "laptop")
    assert server.request("GET", "/fust/v1/runs", token=secret)[0] == 401
    assert server.cli("tokens", "revoke", "laptop", check=False).returncode == 1
    server.cli("users", "new", "maria", "--stdin", stdin="a-long-enough-word\n")
    assert "maria" in server.cli("users").stdout
    again = server.cli("users", "new", "maria", "--no-password", check=False)
    assert again.returncode == 1 and "taken" in again.stderr


def test_another_server_by_url_and_token(server, tmp_path):
    environ = {**server.environ, "FUST_HOME": str(tmp_path), "FUST_URL": server.url}

    def fust(*arguments, **more):
        command = [sys.executable, "-m", "fust.cli.main", *arguments]
        return subprocess.run(command, env={**environ, **more}, capture_output=True, text=True, check=False)

    assert fust("tokens").returncode == 1
    assert fust("tokens", FUST_TOKEN=server.token).returncode == 0
    assert fust("tokens", "--token", "fust_wrong").returncode == 1


@pytest.fixture(scope="module")
def stories(server, shared_dir):
    path = shared_dir / "weights" / "stories260K-f32.gguf"
    served = json.loads(server.cli("serve", str(path), "--alias", "stories", "--json").stdout)
    assert served["repo_id"] == "local/stories260K-f32" and served["state"] == "ready"
    return served


def test_serve_a_file_ps_chat_stop(server, stories):
    line = server.cli("ps").stdout.splitlines()[1]
    assert line.split()[:3] == [stories["name"], "stories", "ready"]
    options = ("--temperature", "0", "--max-tokens", "12")
    once = server.cli("chat", "stories", "Once upon a time", *options).stdout
    assert once == server.cli("chat", "stories", *options, stdin="Once upon a time\n").stdout
    answer = json.loads(server.cli("chat", "stories", "Once upon a time", *options, "--json").stdout)
    assert answer["content"] + "\n" == once and answer["completion_tokens"] == 12
    unknown = server.cli("chat", "nobody", "hi", check=False)
    assert unknown.returncode == 1 and "nobody" in unknown.stderr
    assert server.cli("stop", "nobody", check=False).returncode == 1
    wrong = server.cli("serve", "./none.gguf", check=False)
    assert wrong.returncode == 1 and "is not a GGUF file" in wrong.stderr
    none = server.home.parent / "none.gguf"
    none.write_bytes(b"PK\x03\x04" * 100)
    wrong = server.cli("serve", str(none), check=False)
    assert wrong.returncode == 1 and "does not begin with GGUF" in wrong.stderr
    assert server.request("GET", "/api/models/local/none")[0] == 404, "nothing of it is in the hub"


class Terminal:
    """`fust …` in a terminal of its own."""

    def __init__(self, server, *arguments):
        pid, self.descriptor = pty.fork()
        if pid == 0:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # ignored where the tests run in the background of a script
            os.execve(
                sys.executable,
                [sys.executable, "-m", "fust.cli.main", *arguments],
                {**server.environ, "TERM": "xterm"},
            )
        self.pid = pid
        self.text = ""

    def expect(self, words, timeout_s=15.0):
        deadline = time.monotonic() + timeout_s
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.descriptor], [], [], 0.1)[0]:
                self.text += os.read(self.descriptor, 4096).decode(errors="replace")
        self.text = self.text.partition(words)[2]

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def end(self):
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


def test_chat_takes_turns_in_a_terminal(server, stories):
    terminal = Terminal(server, "chat", "stories", "--max-tokens", "8", "--temperature", "0")
    terminal.expect("Ctrl-C stops an answer")
    terminal.expect("> ")
    terminal.type("Once upon a time\n")
    terminal.expect("8 tokens, ")
    terminal.expect("> ")
    terminal.type("/new\n")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_stops_an_answer_and_not_the_talk(server, stories):
    terminal = Terminal(server, "chat", "stories", "--max-tokens", "400")
    terminal.expect("> ")
    terminal.type("Once upon a time\n")
    terminal.expect("Once upon a time\r\n")
    time.sleep(0.05)
    terminal.type("\x03")
    terminal.expect("> ")
    terminal.type("/exit\n")
    assert terminal.end() == 0


def test_ctrl_c_leaves_a_pull_alone(server, hub):
    hub.files["big.gguf"] = bytes(reversed(range(256))) * 9000
    hub.bad["big.gguf"] = Bad(pause_s=2)
    terminal = Terminal(server, "pull", "org/alone", "--from", hub.url)
    terminal.expect("big.gguf")
    terminal.type("\x03")
    terminal.expect("The run goes on. See it with `fust jobs ")
    run_id = terminal.text.partition(" ")[0] or "r"
    assert terminal.end() == 130
    run = json.loads(server.cli("jobs", "--json").stdout)["items"][0]
    assert run["state"] == "running" and run["id"].startswith(run_id[:1])
    server.cli("jobs", run["id"], "--cancel")
