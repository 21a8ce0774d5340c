/*-------------------------------------------------------------------------
 *
 * rule_text.c
 *	  SQL functions that column rules on text are made of.
 *
 * All are immutable and strict: the same text gives the same text in copy,
 * sync and verification.  What cannot be made good is refused with
 * ERRCODE_REHOME_REFUSED, for the column's error policy to decide.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "errors.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mapping/rule.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

/*
 * rehome_rule_refuse_value raises: a rule does not take a value.
 */
void
rehome_rule_refuse_value(const char *what, const char *value)
{
	int			shown = pg_mbcliplen(value, strlen(value), 200);

	ereport(ERROR,
			errcode(ERRCODE_REHOME_REFUSED),
			errmsg("value %s: \"%.*s\"", what, shown, value));
}

PG_FUNCTION_INFO_V1(rehome_rule_refuse);

/*
 * rehome_rule_refuse(value text, what text) refuses a value that nothing
 * else took.
 */
Datum
rehome_rule_refuse(PG_FUNCTION_ARGS)
{
	rehome_rule_refuse_value(text_to_cstring(PG_GETARG_TEXT_PP(1)),
							 text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

PG_FUNCTION_INFO_V1(rehome_rule_blank_to_null);

Datum
rehome_rule_blank_to_null(PG_FUNCTION_ARGS)
{
	text	   *value = PG_GETARG_TEXT_PP(0);
	const char *p = VARDATA_ANY(value);
	const char *end = p + VARSIZE_ANY_EXHDR(value);

	while (p < end && isspace((unsigned char) *p))
		p++;
	if (p == end)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(value);
}

PG_FUNCTION_INFO_V1(rehome_rule_control);

/*
 * rehome_rule_control(value text, action text) takes out control characters,
 * other than tab and line ends; action is strip, space or refuse.
 */
Datum
rehome_rule_control(PG_FUNCTION_ARGS)
{
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *action = text_to_cstring(PG_GETARG_TEXT_PP(1));
	StringInfoData buf;

	initStringInfo(&buf);
	for (char *p = value; *p != '\0';)
	{
		int			len = pg_mblen(p);
		unsigned char c = *p;
		bool		control = len == 1 && (c < ' ' || c == 0x7f) && c != '\t' && c != '\n' && c != '\r';

		/* C1: U+0080 to U+009F */
		if (len == 2 && GetDatabaseEncoding() == PG_UTF8 && c == 0xc2 && (unsigned char) p[1] < 0xa0)
			control = true;
		if (!control)
			appendBinaryStringInfo(&buf, p, len);
		else if (strcmp(action, "refuse") == 0)
			rehome_rule_refuse_value("has a control character", value);
		else if (strcmp(action, "space") == 0)
			appendStringInfoChar(&buf, ' ');
		p += len;
	}
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/* So long is an entity, without its semicolon; a text may be full of &. */
#define MAX_ENTITY 12

/* Named entities; those of HTML 4 that stand in running text. */
static const struct
{
	const char *name;
	pg_wchar	code;
}			entities[] = {
	{"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}, {"nbsp", 0xA0},
	{"iexcl", 0xA1}, {"cent", 0xA2}, {"pound", 0xA3}, {"yen", 0xA5}, {"sect", 0xA7}, {"copy", 0xA9},
	{"laquo", 0xAB}, {"reg", 0xAE}, {"deg", 0xB0}, {"plusmn", 0xB1}, {"micro", 0xB5}, {"para", 0xB6},
	{"middot", 0xB7}, {"raquo", 0xBB}, {"frac14", 0xBC}, {"frac12", 0xBD}, {"frac34", 0xBE}, {"iquest", 0xBF},
	{"Agrave", 0xC0}, {"Aacute", 0xC1}, {"Acirc", 0xC2}, {"Atilde", 0xC3}, {"Auml", 0xC4}, {"Aring", 0xC5},
	{"AElig", 0xC6}, {"Ccedil", 0xC7}, {"Egrave", 0xC8}, {"Eacute", 0xC9}, {"Ecirc", 0xCA}, {"Euml", 0xCB},
	{"Igrave", 0xCC}, {"Iacute", 0xCD}, {"Icirc", 0xCE}, {"Iuml", 0xCF}, {"Ntilde", 0xD1}, {"Ograve", 0xD2},
	{"Oacute", 0xD3}, {"Ocirc", 0xD4}, {"Otilde", 0xD5}, {"Ouml", 0xD6}, {"times", 0xD7}, {"Oslash", 0xD8},
	{"Ugrave", 0xD9}, {"Uacute", 0xDA}, {"Ucirc", 0xDB}, {"Uuml", 0xDC}, {"szlig", 0xDF}, {"agrave", 0xE0},
	{"aacute", 0xE1}, {"acirc", 0xE2}, {"atilde", 0xE3}, {"auml", 0xE4}, {"aring", 0xE5}, {"aelig", 0xE6},
	{"ccedil", 0xE7}, {"egrave", 0xE8}, {"eacute", 0xE9}, {"ecirc", 0xEA}, {"euml", 0xEB}, {"igrave", 0xEC},
	{"iacute", 0xED}, {"icirc", 0xEE}, {"iuml", 0xEF}, {"ntilde", 0xF1}, {"ograve", 0xF2}, {"oacute", 0xF3},
	{"ocirc", 0xF4}, {"otilde", 0xF5}, {"ouml", 0xF6}, {"divide", 0xF7}, {"oslash", 0xF8}, {"ugrave", 0xF9},
	{"uacute", 0xFA}, {"ucirc", 0xFB}, {"uuml", 0xFC}, {"yuml", 0xFF}, {"ndash", 0x2013}, {"mdash", 0x2014},
	{"lsquo", 0x2018}, {"rsquo", 0x2019}, {"sbquo", 0x201A}, {"ldquo", 0x201C}, {"rdquo", 0x201D},
	{"bdquo", 0x201E}, {"bull", 0x2022}, {"hellip", 0x2026}, {"euro", 0x20AC}, {"trade", 0x2122},
};

/*
 * decode_entity appends what the entity at p ("&...;") stands for, and
 * returns its length; 0 when there is none.
 */
static int
decode_entity(StringInfo buf, const char *p)
{
	const char *end = memchr(p, ';', strnlen(p, MAX_ENTITY + 1));
	unsigned char utf8[MAX_UNICODE_EQUIVALENT_STRING + 1];
	pg_wchar	code = 0;
	int			len;

	if (end == NULL || end - p < 2)
		return 0;
	len = end - p - 1;
	if (p[1] == '#')
	{
		char	   *stop;
		bool		hex = p[2] == 'x' || p[2] == 'X';
		const char *digits = p + (hex ? 3 : 2);

		if (!isxdigit((unsigned char) *digits))
			return 0;
		code = (pg_wchar) strtoul(digits, &stop, hex ? 16 : 10);
		if (stop != end || !is_valid_unicode_codepoint(code) || (code >= 0xD800 && code <= 0xDFFF))
			return 0;
	}
	else
		for (int i = 0; i < lengthof(entities); i++)
			if (strlen(entities[i].name) == len && strncmp(p + 1, entities[i].name, len) == 0)
				code = entities[i].code;
	if (code == 0)
		return 0;
	pg_unicode_to_server(code, utf8);
	appendStringInfoString(buf, (char *) utf8);
	return end - p + 1;
}

/*
 * append_decoded appends text with its entities decoded.
 */
static void
append_decoded(StringInfo buf, const char *p)
{
	while (*p != '\0')
	{
		int			len = *p == '&' ? decode_entity(buf, p) : 0;

		if (len == 0)
			appendBinaryStringInfo(buf, p, len = pg_mblen(p));
		p += len;
	}
}

PG_FUNCTION_INFO_V1(rehome_rule_entities);

Datum
rehome_rule_entities(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_decoded(&buf, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/*
 * tag_is tells whether the tag at p ("<..." or "</...") has that name.
 */
static bool
tag_is(const char *p, const char *name)
{
	int			len = strlen(name);

	p += p[1] == '/' ? 2 : 1;
	return pg_strncasecmp(p, name, len) == 0 && !isalnum((unsigned char) p[len]);
}

/*
 * skip_tag returns what follows the tag or comment at p; of script and style,
 * what follows their end.
 */
static const char *
skip_tag(const char *p)
{
	static const char *const hidden[] = {"script", "style"};
	char		quote = '\0';

	if (strncmp(p, "<!--", 4) == 0)
	{
		p = strstr(p, "-->");
		return p ? p + 3 : "";
	}
	for (int i = 0; i < lengthof(hidden); i++)
		if (p[1] != '/' && tag_is(p, hidden[i]))
		{
			while (*p != '\0' && !(p[0] == '<' && p[1] == '/' && tag_is(p, hidden[i])))
				p += pg_mblen(p);
			break;
		}
	for (; *p != '\0'; p += pg_mblen(p))
	{
		if (quote != '\0')
			quote = *p == quote ? '\0' : quote;
		else if (*p == '"' || *p == '\'')
			quote = *p;
		else if (*p == '>')
			return p + 1;
	}
	return p;
}

PG_FUNCTION_INFO_V1(rehome_rule_html);

/*
 * rehome_rule_html(value text) returns what a reader of the HTML would see:
 * no tags, entities decoded, blanks collapsed, a line for each block.
 */
Datum
rehome_rule_html(PG_FUNCTION_ARGS)
{
	static const char *const blocks[] = {
		"br", "p", "div", "li", "ul", "ol", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "blockquote"
	};
	const char *p = text_to_cstring(PG_GETARG_TEXT_PP(0));
	StringInfoData plain;
	StringInfoData buf;

	initStringInfo(&plain);
	while (*p != '\0')
	{
		if (*p == '<' && (isalpha((unsigned char) p[1]) || p[1] == '/' || p[1] == '!'))
		{
			for (int i = 0; i < lengthof(blocks); i++)
				if (tag_is(p, blocks[i]))
				{
					while (plain.len > 0 && plain.data[plain.len - 1] == ' ')
						plain.data[--plain.len] = '\0';
					if (plain.len > 0 && plain.data[plain.len - 1] != '\n')
						appendStringInfoChar(&plain, '\n');
					break;
				}
			p = skip_tag(p);
		}
		else if (isspace((unsigned char) *p))
		{
			if (plain.len > 0 && !isspace((unsigned char) plain.data[plain.len - 1]))
				appendStringInfoChar(&plain, ' ');
			p++;
		}
		else
		{
			int			len = pg_mblen(p);

			appendBinaryStringInfo(&plain, p, len);
			p += len;
		}
	}
	while (plain.len > 0 && isspace((unsigned char) plain.data[plain.len - 1]))
		plain.data[--plain.len] = '\0';
	initStringInfo(&buf);
	append_decoded(&buf, plain.data);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}
