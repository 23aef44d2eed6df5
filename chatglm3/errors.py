"""Errors that a user can act on: each message names the value and what to do about it.

Everything raised on purpose at a boundary of the package is a `ChatGLM3Error`, so that the command line
can print it as one line and a program can catch it in one place.
"""

from __future__ import annotations


class ChatGLM3Error(Exception):
    """Base class of every error this package raises on purpose."""


class ConfigError(ChatGLM3Error, ValueError):
    """A config.json that is missing, damaged, or describes another architecture."""


class CheckpointError(ChatGLM3Error, ValueError):
    """Weights that are missing, truncated, unsafe to load, or of the wrong shape."""


class TokenizerError(ChatGLM3Error, ValueError):
    """A tokenizer.model that is missing or damaged, or text and ids that it cannot take."""


class ModelNotFoundError(ChatGLM3Error, FileNotFoundError):
    """A model name that leads to no folder, here or on a hub."""


class InvalidMessageError(ChatGLM3Error, ValueError):
    """A conversation that the prompt format cannot express."""


class InvalidParameterError(ChatGLM3Error, ValueError):
    """A sampling or engine parameter outside its range."""


class PromptTooLongError(ChatGLM3Error, ValueError):
    """A prompt that does not fit the model's context or the cache."""


class DeviceError(ChatGLM3Error, RuntimeError):
    """A device or dtype that this machine cannot provide."""


class GenerationError(ChatGLM3Error, RuntimeError):
    """An answer that broke off because the model's output was not usable."""


class ToolError(ChatGLM3Error, ValueError):
    """A tool that cannot be offered, or a source of tools that cannot be read.

    Raised by a tool while it runs, its text is what the model is told.
    """


class InterpreterError(ChatGLM3Error, RuntimeError):
    """A code interpreter that this machine cannot isolate or start, or a file that it cannot take or give."""


class GrammarError(ChatGLM3Error, ValueError):
    """A schema or grammar whose observance cannot be guaranteed."""


class TrainingDataError(ChatGLM3Error, ValueError):
    """Training data that cannot be read or learnt from: file, line and field are named."""


class TrainingError(ChatGLM3Error, RuntimeError):
    """A training run that cannot begin or go on."""


class ServerError(ChatGLM3Error, RuntimeError):
    """A server that cannot be reached, refuses a request, or breaks an answer off."""
