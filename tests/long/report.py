"""report: how the long tests report: TAP as they go, and at the end "N passed, N failed".

On a terminal, a test that says how far it is has a line that is overwritten each second.
"""
import contextlib
import shutil
import sys
import threading
import time
import traceback

import vmm


class Report:
	"""Of so many tests; those that never came to run have failed."""

	def __init__(self, announced):
		self.passed = self.failed = 0
		self.announced = announced
		print(f"1..{announced}", flush=True)

	@contextlib.contextmanager
	def _showing(self, progress):
		"""progress() is shown as long as this lasts."""
		over = threading.Event()

		def show():
			while not over.wait(1):
				text = progress()[:shutil.get_terminal_size().columns - 1]
				print(f"\r\033[K{text}", end="", flush=True)
			print("\r\033[K", end="", flush=True)

		shower = threading.Thread(target=show, daemon=True)
		if progress and sys.stdout.isatty():
			shower.start()
		try:
			yield
		finally:
			over.set()
			if shower.ident:
				shower.join()

	def run(self, name, test, progress=None):
		"""A test returns lines to be noted, or raises vmm.Failure."""
		start = time.monotonic()
		try:
			with self._showing(progress):
				notes = test()
			self.passed += 1
			word = "ok"
		except Exception as why:
			notes = (str(why) if isinstance(why, vmm.Failure) else traceback.format_exc()).splitlines()
			self.failed += 1
			word = "not ok"
		print(f"{word} {self.passed + self.failed} - {name}")
		print(f"# {time.monotonic() - start:.0f} s")
		for note in notes or ():
			print(f"# {note}")
		sys.stdout.flush()

	def close(self):
		"""The last line, and the exit status."""
		self.failed = max(self.failed, self.announced - self.passed)
		print(f"{self.passed} passed, {self.failed} failed")
		return self.failed != 0
