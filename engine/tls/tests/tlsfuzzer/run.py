#!/usr/bin/env python3
"""Runs tlsfuzzer's scripts for TLS 1.3 against batond, and compares what fails with cases.py.

    TLSFUZZER=FOLDER run.py BATOND [SCRIPT...]

FOLDER is a copy of tlsfuzzer's sources. Needs openssl, and the packages tlslite-ng and kyber-py of the Python that runs this.
Prints a table for README.md; ends with 1 where anything fails that should not, or does not fail that should. Everything goes over
127.0.0.1, takes ten minutes at most, and ends the servers that it has started and nothing else.
"""

import collections
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import cases

SCRIPT_SECONDS_MAX = 180
ALL_SECONDS_MAX = 600
START_SECONDS_MAX = 20
AT_ONCE = 2

KEYS = {
    "rsa": ["-newkey", "rsa:2048"],
    "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ecdsa384": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "ed25519": ["-newkey", "ed25519"],
}


def make_certificates(folder):
    """Those of servers; and as clients', by an authority that servers know."""
    openssl = lambda *arguments: subprocess.run(
        ["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60
    )
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth\nsubjectAltName=DNS:client\n")
    made = ["-nodes", "-days", "30"]
    openssl("req", "-x509", *KEYS["ecdsa"], *made, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    for kind, key in KEYS.items():
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        openssl("req", "-x509", *key, *made, "-keyout", f"{kind}.key", "-out", f"{kind}.pem", *names)
        client = f"client-{kind}"
        openssl("req", *key, "-nodes", "-keyout", f"{client}.key", "-out", f"{client}.csr", "-subj", "/CN=client")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "client.ext"]
        openssl("x509", "-req", "-in", f"{client}.csr", *signed, "-out", f"{client}.pem")


class Server:
    """A batond with one certificate, at a port that the kernel chooses."""

    def __init__(self, batond, folder, name):
        kind = {"clients": "rsa", "echo": "rsa"}.get(name, name)
        config = folder / f"{name}.toml"
        lines = [
            'listen = ["tls://127.0.0.1:0"]',
            'control = "off"',
            f'protocol = "{"echo" if name == "echo" else "http"}"',
            "[tls]",
            # What the scripts do with TLS 1.2 is to be refused: they are those for TLS 1.3.
            'version_min = "1.3"',
            f'certificates = [{{ certificate = "{folder}/{kind}.pem", key = "{folder}/{kind}.key" }}]',
        ]
        if name == "clients":
            lines += ['client_certificates = "optional"', f'client_ca = "{folder}/ca.pem"']
        config.write_text("\n".join(lines) + "\n")
        log = folder / f"{name}.log"
        with log.open("w") as output:
            self.process = subprocess.Popen([batond, "--config", config], stdout=output, stderr=output)
        end = time.monotonic() + START_SECONDS_MAX
        while not (found := re.search(r"listening address=127\.0\.0\.1:(\d+)", log.read_text())):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise SystemExit(f"batond does not start: {log.read_text()}")
            time.sleep(0.05)
        self.port = found[1]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Result:
    """What a script has printed."""

    def __init__(self, output):
        numbers = dict(re.findall(r"^(TOTAL|PASS|FAIL): (\d+)$", output, re.MULTILINE))
        self.is_whole = len(numbers) == 3
        self.passed, self.failed = (int(numbers.get(name, 0)) for name in ("PASS", "FAIL"))
        self.failures = collections.Counter()
        conversation, error = None, ""
        for line in output.splitlines():
            if line.startswith("===================="):
                break
            if begun := re.fullmatch(r'"?(.+?)"?(?: repeat \d+)? ?\.\.\.\s*', line):
                self.end(conversation, error)
                conversation, error = begun[1], ""
            elif line == "OK":
                conversation = None
            elif re.match(r"\w+(Error|Exception)\b", line):
                error = line
        self.end(conversation, error)

    def end(self, conversation, error):
        if conversation is not None and error:
            self.failures[(conversation, error)] += 1


def judge(case, result):
    """What is wrong with the result; and how often each expectation was met."""
    problems, met = [], collections.Counter()
    if not result.is_whole:
        problems.append("did not run to its end")
    if sum(result.failures.values()) != result.failed:
        problems.append(f"{result.failed} failures, {sum(result.failures.values())} understood")
    for (conversation, error), count in result.failures.items():
        for expected in case.fails:
            if re.fullmatch(expected.conversations, conversation) and expected.error in error:
                met[expected] += count
                break
        else:
            problems.append(f"{conversation}: {error}")
    problems += [f"nothing failed of: {one.conversations}" for one in case.fails if not met[one] and not one.is_rare]
    return problems, met


def run(case, tlsfuzzer, folder, port):
    script = tlsfuzzer / "scripts" / f"test-tls13-{case.script}.py"
    app = tlsfuzzer / "tlsfuzzer" / "_apps" / f"test_tls13_{case.script.replace('-', '_')}.py"
    # Where symbolic links of scripts/ were not kept.
    start = [str(script)] if not app.exists() else ["-c", f"import {'tlsfuzzer._apps.' + app.stem} as app; app.main()"]
    arguments = [argument.replace("FOLDER", str(folder)) for argument in case.arguments]
    command = [sys.executable, "-B", *start, "-h", "127.0.0.1", "-p", port, *arguments]
    environment = dict(os.environ, PYTHONPATH=str(tlsfuzzer))
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=SCRIPT_SECONDS_MAX, text=True, errors="replace",
        )
        return done.stdout
    except subprocess.TimeoutExpired as late:
        return f"{(late.stdout or b'').decode(errors='replace')}\nlonger than {SCRIPT_SECONDS_MAX} s"


def main():
    if len(sys.argv) < 2 or "TLSFUZZER" not in os.environ:
        raise SystemExit(__doc__)
    batond, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    tlsfuzzer = pathlib.Path(os.environ["TLSFUZZER"]).resolve()
    chosen = [case for case in cases.CASES if not wanted or case.script in wanted]
    servers, is_bad, rows = {}, False, []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        make_certificates(folder)
        try:
            for name in {case.server for case in chosen}:
                servers[name] = Server(batond, folder, name)

            def attempt(case):
                if time.monotonic() - began > ALL_SECONDS_MAX - SCRIPT_SECONDS_MAX:
                    return "no time is left"
                return run(case, tlsfuzzer, folder, servers[case.server].port)

            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                outputs = list(pool.map(attempt, chosen))
            is_bad = any(server.process.poll() is not None for server in servers.values())
        finally:
            for server in servers.values():
                server.stop()
    for case, output in zip(chosen, outputs):
        result = Result(output)
        problems, met = judge(case, result)
        reasons = "; ".join(f"{count} {expected.reason}" for expected, count in met.items())
        rows.append(f"| {case.script} | {case.server} | {result.passed + result.failed} | {result.passed} | {reasons} |")
        for problem in problems:
            is_bad = True
            print(f"{case.script}, {case.server}: {problem}", file=sys.stderr)
        if not result.is_whole:
            print(output[-2000:], file=sys.stderr)
    print("| script | server | run | passed | failed, as expected |\n|---|---|---|---|---|")
    print("\n".join(rows))
    if is_bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
