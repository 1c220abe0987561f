"""The recorder over real sockets, from the command line, and over days of virtual time."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from capture_lines import write_capture
from exchanges import running
from virtual import SYMBOL, Venue, run_virtual

import engine.record.journal as journals
from engine.cli import main
from engine.kernel.records import REFILLED, SNAPSHOT_LEVEL
from engine.record.convert import convert
from engine.record.importer import import_files
from engine.record.quality import check_session
from engine.record.recorder import Options, Recorder, open_journal
from engine.record.store import Session
from engine.sim.exchange import MAX, Exchange, ExchangeConfig
from engine.sim.faults import Fault
from engine.sources.binance import Endpoint
