"""Writes tests/vectors/text/templates.json: templates of ours, one for each construct of the language, and the text that jinja2
gives for them as transformers sets it up (null where it raises).

    build/venv-reference/bin/python tests/reference/make_template_vectors.py
"""
import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

OUT = pathlib.Path(__file__).parents[2] / "tests/vectors/text/templates.json"
DAY = "2024-07-26"
TALK = [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>\nsum\n</think>\n\n4. Ünï 四", "reasoning_content": None, "n": 3}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "A": {
    "enum": [1, 2.5, True, None, "x\"\\é\n\t\u0001😀"]}}}}}]
VARIABLES = {
    "messages": TALK, "tools": TOOLS, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": False, "none_value": None,
    "numbers": [3, 1, 2, 10], "floats": [0.1, 1.0, -2.5, 1e16, 1e-5, 123456.789, 1e22, 5e-324, 0.0], "empty": [], "text": "  a b,c  \n",
    "words": ["banana", "Apple", "cherry", "apple"], "map": {"b": 1, "a": [1, {"x": "y'z"}], "C": None, "items": 7}, "deep": {"a": {"b": [10, 20]}},
    "umlaut": "Äpfel ÉTÉ straße", "lines": "a\n\nb\r\nc\x0bd", "long": "x" * 300, "yes": True, "quote": "it's \"q\" \\ \n\x00\u200b é",
}
# Templates, one a line. Each is rendered with VARIABLES.
LINES = """
plain text
{{ 1 }}{{ -1 }}{{ +1 }}{{ 1.5 }}{{ 'a' }}{{ "b" }}{{ none }}{{ None }}{{ true }}{{ True }}{{ false }}{{ [1, 'a'] }}{{ (1, 2) }}{{ (1,) }}{{ () }}{{ {'a': 1, 2: none} }}
{{ 1 + 2 * 3 - 4 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 7.5 // 2 }}|{{ -7.5 % 2 }}|{{ 1_000 }}
{{ -2 ** 2 }}|{{ (1 + 2) * 3 }}|{{ 2 * 3 ~ 4 }}|{{ -3 | abs }}|{{ 'a' * 3 }}|{{ [1] * 2 + [3] }}|{{ 2 ** 3 ** 2 }}
{{ 1 / 0 }}
{{ 1 ~ 2 + 3 }}
{{ 'a' + 1 }}
{{ [1] + (2,) }}
{{ 1 < 2 < 3 }}{{ 1 < 2 > 3 }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ 'a' == 1 }}{{ [1, 2] < [1, 3] }}{{ none == none }}{{ true == 1 }}{{ 1 != 2 }}{{ 2 >= 2 }}{{ 'é' > 'z' }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ 'b' in 'abc' }}{{ 'x' not in 'abc' }}{{ 1 in numbers }}{{ 'a' in map }}{{ 'z' in map }}{{ '' in '' }}{{ none in [none] }}{{ missing in [1] }}{{ 1 in missing }}
{{ 1 in 'abc' }}
{{ 'a' in none }}
{{ not true }}{{ not none and 1 }}{{ 0 or 'x' }}{{ '' or none }}{{ 1 and 2 and 3 }}{{ 1 or 2 and 0 }}{{ not 1 == 2 }}
{{ 'y' if yes else 'n' }}{{ 'y' if not yes }}{{ 'y' if none else 'n' if yes else 'z' }}{{ ('y' if not yes) is undefined }}
{{ missing }}|{{ missing | default('d') }}|{{ none_value | default('d') }}|{{ none_value | default('d', true) }}|{{ '' | d('e', boolean=true) }}|{{ map.zz | default }}
{{ missing.attribute }}
{{ missing['item'] }}
{{ missing() }}
{{ missing + 1 }}
{{ missing | upper }}|{{ missing | length }}|{{ missing | list }}|{{ missing | join(',') }}|{{ missing ~ 'x' }}|{{ missing == missing2 }}|{{ missing is none }}|{{ not missing }}|{{ missing | trim }}
{% for x in missing %}{{ x }}{% else %}none{% endfor %}
{{ missing | tojson }}
{{ missing | int }}
{{ none_value.x }}|{{ none_value['x'] is defined }}|{{ 5['x'] is undefined }}|{{ 'abc'.nothing is undefined }}|{{ numbers.foo is defined }}
{{ map.a }}|{{ map['b'] }}|{{ map.items is callable }}|{{ map['items'] }}|{{ map.get('b') }}|{{ map.get('q') }}|{{ map.get('q', 9) }}|{{ map['keys'] is callable }}
{{ deep.a.b.1 }}|{{ deep['a']['b'][-1] }}|{{ deep.a.b[5] is undefined }}|{{ numbers[0] }}{{ numbers[-1] }}|{{ 'héllo'[1] }}{{ 'héllo'[-1] }}
{{ numbers[1:] }}{{ numbers[:-1] }}{{ numbers[::2] }}{{ numbers[::-1] }}{{ numbers[5:] }}{{ 'héllo'[1:3] }}{{ 'héllo'[::-1] }}{{ 'abc'[:2] }}{{ numbers[-2:] }}{{ (1, 2, 3)[1:] }}{{ numbers[3:0:-2] }}{{ 'abcdef'[4:1:-1] }}
{{ numbers[::0] }}
{{ none_value[1:] }}
{{ numbers['a':] }}
{{ map[1:] }}
{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }};{% endfor %}
{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}<{{ m.role }}>{{ loop.nextitem.role if loop.nextitem is defined else '-' }} {% endfor %}
{% for n in numbers if n > 1 %}{{ loop.index }}/{{ loop.length }}:{{ n }}{{ ',' if not loop.last }}{% else %}nothing{% endfor %}
{% for n in numbers if n > 100 %}{{ n }}{% else %}nothing{% endfor %}|{% for n in empty %}{{ n }}{% else %}empty{% endfor %}
{% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %}{% for k in map %}{{ k }}{% endfor %}{% for c in 'aé' %}[{{ c }}]{% endfor %}
{% for a, (b, c) in [[1, [2, 3]], [4, [5, 6]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}
{% for x in none_value %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for n in numbers %}{% if n == 1 %}{% continue %}{% endif %}{% if n == 10 %}{% break %}{% endif %}{{ n }}{% endfor %}
{% for n in numbers %}{% continue %}{% else %}none{% endfor %}|{% for n in numbers %}{% break %}{% else %}none{% endfor %}|{% for n in numbers %}{% if n > 1 %}{% break %}{% endif %}{% else %}none{% endfor %}|{% for n in numbers if n > 1 %}{{ n }}{% continue %}{% else %}none{% endfor %}|{% for a in 'xy' %}{% for n in numbers %}{% break %}{% else %}{% continue %}{% endfor %}{{ a }}{% endfor %}|{% for n in numbers %}{% set n = 5 %}{% if true %}{% continue %}{% endif %}{% else %}{{ n }}{% endfor %}
{% for a in [1, 2] %}{% for b in [3, 4] %}{{ a }}{{ b }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %}
{% for a in [1, 2] %}{% for b in [] %}{% else %}{{ loop.index }}{% endfor %}{% endfor %}
{% set x = 1 %}{% for n in numbers %}{{ x }}{% set x = n %}{{ x }}{% endfor %}{{ x }}
{% for n in [1, 2] %}{% if n == 1 %}{% set y = 'set' %}{% endif %}{{ y is defined }}{% endfor %}{{ y is defined }}
{% if true %}{% set z = 5 %}{% endif %}{{ z }}
{% set ns = namespace(a=1, found=false) %}{% for n in numbers %}{% set ns.a = ns.a + n %}{% if n == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.a }}{{ ns.found }}{{ ns.zz is defined }}{{ ns['a'] }}
{% set map.a = 1 %}
{% set ns = namespace(_x=1) %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}
{% set x = 1 %}{% set b %}{% set x = 2 %}{{ x }}{% endset %}{{ b }}{{ x }}
{% macro f(a, b=2, c='z') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }}|{{ f(1, 3) }}|{{ f(1, c='q') }}|{{ f(b=5, a=4) }}|{{ f() }}|{{ f(1) | length }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(q=1) }}
{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f(a, b=a + 1) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}
{% set x = 'late' %}{% macro f() %}{{ x }}{{ later }}{% endmacro %}{% set x = 'now' %}{% set later = 'L' %}{{ f() }}
{% macro f() %}{% set inner = 1 %}{{ inner }}{% endmacro %}{{ f() }}{{ inner is defined }}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}bold {{ 1 }}{% endcall %}
{% macro each(list) %}{% for x in list %}{{ caller(x) }};{% endfor %}{% endmacro %}{% call(x) each([1, 2]) %}<{{ x }}>{% endcall %}
{% filter upper %}abc {{ 'def' }}{% endfilter %}{% filter replace('a', 'b') | trim %} aaa {% endfilter %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}
{% generation %}text {{ 1 }}{% set g = 1 %}{% endgeneration %}{{ g is defined }}
{# comment #}a{#- c -#} b {#+ c +#} c{# {{ x }} #}
{% print 1, 2 %}
a {%- if true %} b {% endif -%} c {{- 1 -}} d {{ 2 }}
{{ "}}" }}{{ '%}' }}{{ {'a': {'b': 1}}['a']['b'] }}{{ [[1], [2]][1][0] }}
{{ text | trim }}|{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaxy'.lstrip('yx') }}|{{ 'a.b.'.rstrip('.') }}|{{ '\u3000a\x85'.strip() }}|{{ 'xa' | trim('x') }}
{{ text.split() }}{{ text.split(',') }}{{ 'a,b,c'.split(',', 1) }}{{ ' a b c '.split(none, 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b c '.rsplit(none, 1) }}{{ ''.split() }}{{ ''.split(',') }}{{ 'a  b'.split(' ') }}{{ 'a,b'.split(sep=',', maxsplit=0) }}
{{ 'abc'.split('') }}
{{ lines.splitlines() }}{{ lines.splitlines(true) }}{{ 'a\\n'.splitlines() }}{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'abc'.partition('-') }}{{ 'abc'.rpartition('-') }}
{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith('bc') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}
{{ 'aXbX'.replace('X', '-') }}{{ 'aXbX'.replace('X', '-', 1) }}{{ 'ab'.replace('', '.') }}{{ 'aaa' | replace('a', 'b', 2) }}{{ 123 | replace(2, 'x') }}{{ ''.replace('', 'x') }}
{{ 'héllo'.find('l') }}{{ 'héllo'.rfind('l') }}{{ 'abc'.find('z') }}{{ 'abc'.index('c') }}{{ 'abab'.count('ab') }}{{ 'aé'.count('') }}{{ 'héllo' | length }}
{{ 'abc'.index('z') }}
{{ ','.join(['a', 'b']) }}{{ ','.join('abc') }}{{ numbers | join }}{{ numbers | join('-') }}{{ messages | join(',', attribute='role') }}{{ [none, 1.0, 'x'] | join('|') }}
{{ ','.join([1]) }}
{{ umlaut.upper() if false else umlaut.lower() }}|{{ 'äé' | upper }}|{{ 'ÄÉ' | lower }}|{{ 'hELLO wORLD' | capitalize }}|{{ 'hello wORLD-x (a' | title }}|{{ "it's aB".title() }}|{{ 'ab'.upper() }}|{{ 'abc'.capitalize() }}
{{ '12'.isdigit() }}{{ '1a'.isdigit() }}{{ ''.isdigit() }}{{ 'aé'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' \\n'.isspace() }}{{ 'ab'.islower() }}{{ 'AB'.isupper() }}{{ '1'.islower() }}
{{ 'ab'.center(5) }}|{{ 'ab'.ljust(4) }}|{{ 'ab'.rjust(4, '.') }}|{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'abc' | center(8) }}|{{ 'a'.center(4, '*') }}
{{ '%s is %d' % ('x', 3) }}|{{ '%s' % 'a' }}|{{ '%.2f%%' % 1.005 }}|{{ '%r' % 'q' }}|{{ '%(a)s' % {'a': 1} }}|{{ '%s-%s' | format('a', 2) }}|{{ '%i' % 3.7 }}
{{ '%5s|%-5s|%.2s|%8.3s|%05s' % ('abc', 'é四', 'abc', 'abcdef', 'a') }}|{{ '%6r' % 'a' }}|{{ '%5d|%-5d|%05d|%+d|% d|%+05d|%-05d|%i' % (7, 7, -7, 7, 7, 7, 7, true) }}|{{ '%8.2f|%-8.1f|%08.2f|%+.0f|%.f|%f|%.12f' % (2.675, 1, -1.5, 2.5, 3.5, -0.0, 0.1) }}|{{ '%(a)-4s|' % {'a': 1} }}
{{ '%05%' % 1 }}
{{ '%5.1f' % 'x' }}
{{ '{:>5}|{:<5}|{:^6}|{:*^7}|{:é>4}|{:.2}|{:5}|{:5s}'.format('abc', 'é四', 'abc', 'ab', 'x', 'abc', 'a', 'b') }}|{{ '{:5}|{:<5}|{:05}|{:+}|{: d}|{:-d}|{:,}|{:<05d}|{:^7,}'.format(7, 7, -7, 7, 7, -7, 1234567, 3, -1234) }}|{{ '{0:8.2f}|{0:.0f}|{0:+,.1f}|{0:010.3f}|{1:f}'.format(-12345.678, 1) }}|{{ '{x:>3}|{x:*<4}'.format(x=true) }}|{{ '{:}'.format(none) }}|{{ '{::>4}'.format('a') }}
{{ '{:5}'.format(none) }}
{{ '{:.2d}'.format(5) }}
{{ '{:d}'.format('5') }}
{{ '{:.f}'.format(1.5) }}
{{ '{:+}'.format('a') }}
{{ '{:{w}}'.format(1) }}
{{ '%s %s' % 'a' }}
{{ '%s' % ('a', 'b') }}
{{ '{} {}'.format(1, 'a') }}|{{ '{1}{0}'.format('a', 'b') }}|{{ '{x}{{}}'.format(x=none) }}|{{ 'no'.format() }}
{{ '{}'.format() }}
{{ numbers | first }}{{ numbers | last }}{{ 'abc' | first }}{{ empty | first is undefined }}{{ numbers | length }}{{ map | length }}{{ numbers | count }}{{ map | first }}
{{ numbers | list }}{{ 'ab' | list }}{{ map | list }}{{ map.keys() | list }}{{ map.values() | list }}{{ map.items() | list }}{{ map | items | list }}{{ range(3) | list }}{{ range(1, 10, 4) | list }}{{ range(3, 0, -1) | list }}
{{ numbers | reverse | list }}{{ 'abc' | reverse }}{{ numbers | sort }}{{ numbers | sort(reverse=true) }}{{ words | sort }}{{ words | sort(case_sensitive=true) }}{{ words | sort(true) }}{{ messages | sort(attribute='role') | map(attribute='role') | list }}
{{ ['a', 1] | sort }}
{{ [none, none] | sort }}{{ [{'a': 1}, {'b': 2}] | sort(attribute='n') }}{{ true | round }}{{ ('<b' | safe)[::-1] | e }}{{ ('<' | safe) | list }}{{ 'x' % [] }}{{ none | tojson }}
{{ missing | attr('x') }}
{{ map | dictsort }}{{ map | dictsort(true) }}{{ {'a': 2, 'b': 1} | dictsort(by='value') }}{{ {'a': 2, 'b': 1} | dictsort(reverse=true) }}{{ words | unique | list }}{{ numbers | min }}{{ numbers | max }}{{ words | min }}{{ empty | max is undefined }}
{{ numbers | sum }}{{ numbers | sum(start=5) }}{{ messages | selectattr('n') | sum(attribute='n') }}{{ [1, 2, 3, 4, 5] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 'x') | list }}
{% for g in messages | groupby('role') %}{{ g.grouper }}:{{ g.list | length }}{{ g[0] }}{{ g['list'] | map(attribute='role') | list }} {% endfor %}{% for name, group in words | groupby(0) %}{{ name }}={{ group }};{% endfor %}{{ words | groupby(none) }}
{{ words | groupby(0, case_sensitive=true) }}{{ messages | groupby('n', default=0) | map('first') | list }}{{ messages | groupby('x.y', default='z') | map(attribute='grouper') | list }}{{ [] | groupby('a') }}{{ (words | groupby(0))[0] == ('a', ['Apple', 'apple']) }}{{ (words | groupby(0) | first)[:1].grouper is defined }}{{ (words | groupby(0) | first).index is callable }}{{ words | groupby(0) | tojson }}
{{ messages | groupby('n') }}
{{ messages | groupby }}
{{ [{'a': 1}, {'a': 1.0}, {'a': true}] | groupby('a') }}{{ [{'a': 'B', 'b': 2}, {'a': 'b', 'b': 1}, {'a': 'A', 'b': 3}] | sort(attribute='a,b') }}{{ [{'a': 'B', 'b': 2}, {'a': 'b', 'b': 1}] | sort(attribute='a,b', case_sensitive=true, reverse=true) }}{{ [[2, 1], [1, 2]] | sort(attribute='1,0') }}
{{ [{'a': 1}] | sort(attribute='a,b') }}|{{ [{'a': 1}, {'a': 1}] | sort(attribute='a, b') | length }}
{{ [1, 2, 3, 4, 5, 6, 7] | slice(3) | list }}{{ [1, 2, 3, 4] | slice(3, 'x') | list }}{{ [1, 2] | slice(2, fill_with=0) | list }}{{ 'abc' | slice(5) | list }}{{ [1] | slice(-1) | list }}
{{ [1] | slice(0) | list }}
{{ [1] | slice('a') | list }}
{{ long | truncate }}|{{ 'foo bar baz qux' | truncate(9) }}|{{ 'foo bar baz qux' | truncate(9, true) }}|{{ 'foo bar baz qux' | truncate(11) }}|{{ 'foo bar baz qux' | truncate(11, leeway=0) }}|{{ 'foo bar baz qux' | truncate(9, end='…', leeway=0) }}|{{ 'ünïcödé text' | truncate(5, true, '', 0) }}|{{ missing | truncate }}|{{ 'a b' | truncate(0, end='', leeway=0) }}|{{ ' ab cd' | truncate(3, end='', leeway=0) }}
{{ 'abc' | truncate(2) }}
{{ 5 | truncate }}
{{ '<b>' | safe | forceescape }}|{{ '<b>' | forceescape }}|{{ 5 | forceescape }}|{{ '<' | e | forceescape }}
{{ 'upper' is filter }}{{ 'wordwrap' is filter }}{{ 'nosuch' is filter }}{{ 'in' is test }}{{ '==' is test }}{{ 'nosuch' is test }}{{ 5 is filter }}{{ none is test }}{{ 'urlize' is filter }}{{ 'xmlattr' is filter }}
{{ 'abcabc'.find('b', 2) }}{{ 'abcabc'.find('b', 2, 4) }}{{ 'abcabc'.rfind('b', 0, 3) }}{{ 'éé四'.find('四', -1) }}{{ 'abc'.find('', 3) }}{{ 'abc'.find('', 4) }}{{ 'abc'.find('', 2, 1) }}{{ 'abc'.find('a', none, none) }}{{ 'abc'.index('c', -5) }}{{ 'abcb'.rindex('b', 1, -1) }}{{ 'aaaa'.count('a', 1, 3) }}{{ 'ab'.count('', 1) }}{{ 'ab'.count('', 3) }}{{ 'abc'.find('c', 0, -9) }}
{{ 'abc'.startswith('b', 1) }}{{ 'abc'.startswith('', 4) }}{{ 'abc'.startswith(('x', 'c'), 2) }}{{ 'abc'.endswith('b', 0, 2) }}{{ 'abc'.endswith('', 2, 1) }}{{ 'abc'.isascii() }}{{ 'é'.isascii() }}{{ ''.isascii() }}{{ ('a' | safe).find('a', 0) }}
{{ 'abc'.index('a', 1) }}
{{ 'abc'.find('a', 'x') }}
{{ 'abc'.startswith(5, 9) }}
{{ messages | map(attribute='n', default=none) | list }}|{{ messages | map(attribute='x.y', default='q') | list }}|{{ messages | selectattr(none) | list | length }}|{{ words | map(attribute=none) | list }}|{{ words | join(',', attribute=0) }}|{{ messages | sum(attribute=none, start=[]) if false }}
{{ numbers | select('gt', 2) | list }}{{ numbers | reject('odd') | list }}{{ numbers | select | list }}{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}{{ messages | rejectattr('role', 'in', ['user', 'system']) | list | length }}{{ messages | selectattr('n', 'defined') | list | length }}
{{ words | map('upper') | list }}{{ messages | map(attribute='n', default='-') | join(',') }}{{ words | map('replace', 'a', 'o') | join(' ') }}{{ none_value | map('upper') | list }}{{ none_value | selectattr('x') | list }}
{{ '3' | int }}{{ ' 4 ' | int }}{{ '3.7' | int }}{{ 'x' | int }}{{ 'x' | int(9) }}{{ 3.9 | int }}{{ true | int }}{{ none_value | int }}{{ '1_0' | int }}{{ '2.5' | float }}{{ 'x' | float }}{{ 3 | float }}{{ '1e3' | float }}
{{ 2.5 | round }}|{{ 3.5 | round }}|{{ 2.675 | round(2) }}|{{ 2.1 | round(0, 'ceil') }}|{{ 2.9 | round(method='floor') }}|{{ (-0.1) | round(0, 'ceil') }}|{{ (-0.04) | round(1, 'ceil') }}|{{ (-0.0) | round(method='floor') }}|{{ (-0.1) | round }}|{{ 5 | round }}|{{ -3 | abs }}|{{ -2.5 | abs }}
{{ floats }}{{ 1.0 }}{{ 100000000000000000.0 }}{{ 0.1 + 0.2 }}{{ 1 / 3 }}{{ 10 / 2 }}{{ 1e300 * 1e10 }}
{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(1, blank=true) }}|{{ 'a\\nb' | indent('> ') }}|{{ 'a\\n' | indent(width=3, first=true) }}|{{ '' | indent }}
{{ 1 | string ~ 2 }}|{{ 'one two_3 four' | wordcount }}|{{ none_value | string }}|{{ [1] | string }}
{{ '<a>' | safe }}|{{ '<a>' | e }}|{{ ('<a>' | safe) ~ '<b>' }}|{{ ('<a>' | safe) + '<b>' }}|{{ '<b>' + ('<a>' | safe) }}|{{ '<a>' | safe | upper }}|{{ '<' | escape is escaped }}|{{ '<' is escaped }}|{{ 'x' | safe | length }}
{{ tools | tojson }}|{{ tools[0] | tojson(indent=2) }}|{{ map | tojson(sort_keys=true) }}|{{ map | tojson(separators=(',', ':')) }}|{{ quote | tojson }}|{{ quote | tojson(ensure_ascii=true) }}|{{ floats | tojson }}|{{ [] | tojson(indent=1) }}|{{ {} | tojson }}|{{ {1: true, none: 2.0, false: 3} | tojson }}|{{ (1, 2) | tojson(indent='--') }}
{{ quote }}|{{ [quote] }}|{{ {'k': quote} }}|{{ ["it's"] }}|{{ ['"'] }}|{{ ['é 四 😀 \u200b \x7f \xad'] }}|{{ messages[2] }}
{{ 1 is number }}{{ 1.0 is float }}{{ 1 is integer }}{{ true is integer }}{{ true is number }}{{ true is boolean }}{{ 'a' is string }}{{ map is mapping }}{{ numbers is sequence }}{{ map is sequence }}{{ 'a' is iterable }}{{ 5 is iterable }}{{ map.items() is sequence }}{{ none is none }}{{ 1 is not none }}{{ true is true }}{{ 1 is true }}{{ false is false }}
{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 1 is eq 1 }}{{ 1 is equalto(2) }}{{ 1 is lt 2 }}{{ 3 is ge(3) }}{{ 1 is in [1, 2] }}{{ 1 is not in [1] }}{{ none is sameas none }}{{ 'a' is lower }}{{ 'A' is upper }}{{ missing is defined }}{{ missing is undefined }}{{ range is callable }}{{ missing is iterable }}{{ missing is sequence }}
{{ x is defined if yes }}
{{ dict(a=1, b='x') }}{{ dict({'a': 1}, b=2) }}{{ dict([('k', 'v')]) }}{{ dict() }}{{ {'a': 1}.copy() }}{{ [1, 2].index(2) }}{{ [1, 1].count(1) }}
{{ [].append(1) }}
{{ map.pop('b') }}
{{ map.update({}) }}
{{ raise_exception('no ' ~ 'good') }}
{% if messages[0].role != 'user' %}{{ raise_exception('first') }}{% endif %}
{{ strftime_now('%Y-%m-%d %d %b %Y %B %a %A %j %y %-d/%-m %% %F é') }}
{{ 'x' | nosuchfilter }}
{% if false %}{{ 'x' | nosuchfilter }}{% endif %}ok
{% if true %}{{ 'x' | nosuchfilter }}{% endif %}
{{ ('x' | nosuchfilter) if false else 'fine' }}
{% for x in [] %}{{ x | nosuchfilter }}{% endfor %}
{{ x is nosuchtest }}
{% if %}{% endif %}
{% for %}{% endfor %}
{{ 1 + }}
{{ (1 }}
{{ 'open }}
{% unknown %}
{% else %}
{{ a b }}
{% break %}
{% set true = 1 %}
{{ 1 if }}
{% macro f(a=1, b) %}{% endmacro %}
{{ f(a=1, 2) }}
{# open
{{ [1, 2,] }}{{ (1, 2,) }}{{ {'a': 1,} }}{{ range(2,) | list }}
{% if true: %}colon{% endif %}
{%- set x = 'a' -%}   {{ x }}   {%- if x == 'a' -%}   yes   {%- elif x == 'b' -%} b {%- else -%} no {%- endif -%}   .
{{ messages[0]['content'] | trim }}{{ messages[-1].content.split('</think>')[-1].lstrip('\\n') }}{{ messages[-1].content.split('</think>')[0].split('<think>')[-1].strip() }}
{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 1) %}{{ raise_exception('alternate') }}{% endif %}{{ '[' + message['role'] + ']' + message['content'] | trim + eos_token }}{% endfor %}
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
{{ loop is defined }}{{ caller is defined }}
{{ long | length }}{{ (long ~ long) | length }}{{ messages | length > 2 }}{{ -1 | string }}{{ 'a' ~ 'b' | upper }}{{ 1 == 1 and 'yes' }}{{ 'a' if 1 > 2 else 'b' ~ 'c' }}
""".strip("\n").split("\n")
# Those of several lines.
BLOCKS = [
    """{{ 'a' 'b' "c" }}|{{ 'it\\'s' }}|{{ "\\n\\t\\\\\\x41\\u00e9\\U0001F600\\101\\q" }}|{{ 'multi\nline' }}""",
    "{% set block %}  a {{ 1 + 1 }}\n{% endset %}[{{ block }}]{% set up | upper %}abc{% endset %}{{ up }}{{ block is string }}",
    "{% raw %}{{ not }} {% a %}{% endraw %}|{%- raw -%}  x  {%- endraw -%}  |{% raw %}\n  y\n{% endraw %}\n",
    "{% if true %}\n{% endif %}\n", "{% if true %}\n", "a\r\nb\rc\n\n", "\n", "", "  {% if true %}x{% endif %}\n  {{ 1 }}\n",
    "a\n\n{# c #}\n\n{#- c -#}\n b", "{{ 1\n+\n2 }}\n{{ '\\\n' }}", "line\n{{ messages[0].x.y }}",
    """a
  {% if true %}
  b
  {% endif %}
  c {% if true %} d{% endif %}
  {%+ if true %}e{% endif %}
  {{ 1 }}
{% if true +%}
f
{% endif %}

  {# note #}
g
{%- for n in numbers -%}
  {{ n }},
{%- endfor %}

last
""",
]
TEMPLATES = LINES + BLOCKS


class Today(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(DAY)


def render(template):
    try:
        return chat_template_utils._compile_jinja_template(template).render(**VARIABLES)
    except Exception:  # whatever a template raises, its text is not to be had
        return None


def main():
    chat_template_utils.datetime = Today
    cases = [[t, render(t)] for t in TEMPLATES]
    how = f"tests/reference/make_template_vectors.py, jinja2 {jinja2.__version__} as transformers {transformers.__version__} sets it up"
    rows = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    OUT.write_text(f'{{"how":{json.dumps(how)},\n"date":"{DAY}",\n"variables":{json.dumps(VARIABLES)},\n"cases":[\n{rows}\n]}}\n')
    print(f"{OUT.name}: {len(cases)} templates, {sum(text is None for _, text in cases)} of them refused, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
