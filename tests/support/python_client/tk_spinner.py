"""A host with a real event loop: tkinter, with a spinner that must keep turning while the sign-in waits.

Prints the prompt as a line of JSON, then what came of it, with the longest pause of the spinner.
"""

import json
import sys
import threading
import time
import tkinter

import token_relay

relay, mode = sys.argv[1:3]
root = tkinter.Tk()
spinner = tkinter.Label(root, text="|")
spinner.pack()
started = time.monotonic()
turns, longest, last = 0, 0.0, started
threads = set()


def turn():
    global turns, longest, last
    now = time.monotonic()
    turns, longest, last = turns + 1, max(longest, now - last), now
    spinner["text"] = "|/-\\"[turns % 4]
    root.after(20, turn)


def prompt(shown):
    threads.add(threading.current_thread())
    spinner["text"] = shown.user_code or ""
    print(json.dumps({"url": shown.url, "user_code": shown.user_code}), flush=True)


def finished(sign_in):
    threads.add(threading.current_thread())
    result = {"turns": turns, "longest_ms": round(longest * 1000), "seconds": round(time.monotonic() - started, 1)}
    try:
        result["token"] = sign_in.result(0).access_token
    except token_relay.SignInError as error:
        result["error"] = error.error
    result["on_the_loops_thread"] = threads == {threading.main_thread()}
    print(json.dumps(result), flush=True)
    root.destroy()


sign_in = token_relay.sign_in(
    relay, client_name="A plug-in", on_prompt=prompt, on_done=finished, open_browser=False
)
began = time.monotonic() - started


def pump():
    if not sign_in.poll():
        root.after(50, pump)


assert began < 0.2, f"sign_in() took {began} s"
if mode == "cancel":
    root.after(1500, sign_in.cancel)
root.after(0, turn)
root.after(0, pump)
root.mainloop()
