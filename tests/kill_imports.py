"""What the fork server of test_kill imports once, so that its children need not."""

from __future__ import annotations

import openai  # noqa: F401
import transformer_lens.model_bridge  # noqa: F401
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: F401

import autointerp.demo.corpus
import autointerp.demo.model
import autointerp.pipeline
import autointerp.report  # noqa: F401
import tests.test_kill  # noqa: F401
