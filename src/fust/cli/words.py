"""click's own words in Chinese. click asks gettext for them by name; no catalogue of it in Chinese is published."""

from __future__ import annotations

import types

import click

from fust.core.i18n import terminal_language

_WORDS = {
    "Usage:": "用法：",
    "Options": "选项",
    "Commands": "命令",
    "Positional arguments": "参数",
    "Show this message and exit.": "显示本帮助并退出。",
    "Try '{command} {option}' for help.": "运行“{command} {option}”查看帮助。",
    "Error: {message}": "错误：{message}",
    "Error: invalid input": "错误：输入无效",
    "Error: The two entered values do not match.": "错误：两次输入的内容不一致。",
    "Aborted!": "已中止！",
    "Repeat for confirmation": "请再输入一次以确认",
    "Do you want to continue?": "要继续吗？",
    "Missing argument": "缺少参数",
    "Missing option": "缺少选项",
    "Missing parameter": "缺少参数",
    "Missing command.": "缺少命令。",
    "Missing {param_type}": "缺少{param_type}",
    "Missing parameter: {param_name}": "缺少参数：{param_name}",
    "Choose from:\n\t{choices}": "可选：\n\t{choices}",
    "No such option {name!r}.": "没有选项“{name}”。",
    "No such command {name!r}.": "没有命令“{name}”。",
    "Did you mean {possibility}?": "您是想输入 {possibility} 吗？",
    "(Did you mean one of: {possibilities}?)": "（您是想输入其中之一吗：{possibilities}？）",
    "Got unexpected extra argument ({args})": "多余的参数（{args}）",
    "Got unexpected extra arguments ({args})": "多余的参数（{args}）",
    "Option {name!r} does not take a value.": "选项“{name}”不带值。",
    "Option {name!r} requires an argument.": "选项“{name}”需要一个值。",
    "Option {name!r} requires {nargs} arguments.": "选项“{name}”需要 {nargs} 个值。",
    "Argument {name!r} takes {nargs} values.": "参数“{name}”需要 {nargs} 个值。",
    "Invalid value: {message}": "值无效：{message}",
    "Invalid value for {param_hint}: {message}": "{param_hint} 的值无效：{message}",
    "{value!r} is not a valid {number_type}.": "“{value}”不是有效的 {number_type}。",
    "{value!r} is not a valid boolean. Recognized values: {states}": "“{value}”不是布尔值，可用：{states}",
    "{value!r} is not {choice}.": "“{value}”不是 {choice}。",
    "{value!r} is not one of {choices}.": "“{value}”不在 {choices} 之中。",
    "{value} is not in the range {range}.": "{value} 不在范围 {range} 内。",
    "{name} {filename!r} does not exist.": "{name}“{filename}”不存在。",
    "{name} {filename!r} is a file.": "{name}“{filename}”是文件。",
    "{name} {filename!r} is a directory.": "{name}“{filename}”是文件夹。",
    "{name} {filename!r} is not readable.": "{name}“{filename}”不可读。",
    "{name} {filename!r} is not writable.": "{name}“{filename}”不可写。",
    "Could not open file {filename!r}: {message}": "无法打开文件“{filename}”：{message}",
    "file": "文件",
    "directory": "文件夹",
    "path": "路径",
    "File": "文件",
    "Directory": "文件夹",
    "Path": "路径",
    "default: {default}": "默认：{default}",
    "required": "必填",
    "{missing}{param_hint}.{msg}": "{missing}{param_hint}。{msg}",
}


def speak() -> None:
    """Makes click say its own words in the language of the terminal."""
    if terminal_language() == "en":
        return

    def one(message: str) -> str:
        return _WORDS.get(message, message)

    def several(singular: str, plural: str, n: int) -> str:
        return one(singular if n == 1 else plural)

    for name, module in vars(click).items():
        if isinstance(module, types.ModuleType) and name in _MODULES:
            if hasattr(module, "_"):
                module._ = one  # pyright: ignore[reportAttributeAccessIssue]
            if hasattr(module, "ngettext"):
                module.ngettext = several  # pyright: ignore[reportAttributeAccessIssue]


_MODULES = {"core", "exceptions", "formatting", "parser", "types", "decorators", "termui"}
