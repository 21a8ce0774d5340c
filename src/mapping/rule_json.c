/*-------------------------------------------------------------------------
 *
 * rule_json.c
 *	  JSON as programs wrote it by hand, made JSON again.
 *
 * Repaired: single quotes, keys without quotes, commas before a closing
 * bracket, True, False, None, undefined, NaN and Infinity, control characters
 * inside of strings, comments, brackets left open at the end, and \u0000,
 * which jsonb does not take.  The result is parsed before it is returned;
 * what is still no JSON is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "common/jsonapi.h"
#include "compat.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mapping/rule.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/*
 * copy_string appends the string that opens at p as a JSON string, and
 * returns what follows it.
 */
static const char *
copy_string(StringInfo buf, const char *p)
{
	char		quote = *p++;

	appendStringInfoChar(buf, '"');
	while (*p != '\0' && *p != quote)
	{
		unsigned char c = *p;

		if (c == '\\' && strncmp(p, "\\u0000", 6) == 0)
			p += 6;
		else if (c == '\\' && p[1] == '\'')
		{
			appendStringInfoChar(buf, '\'');
			p += 2;
		}
		else if (c == '\\' && p[1] != '\0')
		{
			appendBinaryStringInfo(buf, p, 2);
			p += 2;
		}
		else if (c == '"')
		{
			appendStringInfoString(buf, "\\\"");
			p++;
		}
		else if (c < ' ')
		{
			appendStringInfo(buf, "\\u%04x", c);
			p++;
		}
		else
		{
			int			len = pg_mblen(p);

			appendBinaryStringInfo(buf, p, len);
			p += len;
		}
	}
	appendStringInfoChar(buf, '"');
	return *p == quote ? p + 1 : p;
}

/*
 * copy_word appends the word at p as JSON, and returns what follows it.
 */
static const char *
copy_word(StringInfo buf, const char *p)
{
	static const struct
	{
		const char *word;
		const char *json;
	}			words[] = {
		{"true", "true"}, {"false", "false"}, {"null", "null"}, {"none", "null"}, {"undefined", "null"},
		{"nan", "null"}, {"infinity", "null"},
	};
	const char *start = p;
	const char *after;

	while (isalnum((unsigned char) *p) || *p == '_' || *p == '$' || IS_HIGHBIT_SET(*p))
		p += pg_mblen(p);
	for (after = p; isspace((unsigned char) *after); after++)
		;
	if (*after != ':')
		for (int i = 0; i < lengthof(words); i++)
			if (strlen(words[i].word) == p - start && pg_strncasecmp(start, words[i].word, p - start) == 0)
			{
				appendStringInfoString(buf, words[i].json);
				return p;
			}
	appendStringInfo(buf, "\"%.*s\"", (int) (p - start), start);
	return p;
}

/*
 * drop_comma takes a comma off the end, and the blanks around it.
 */
static void
drop_comma(StringInfo buf)
{
	int			len = buf->len;

	while (len > 0 && isspace((unsigned char) buf->data[len - 1]))
		len--;
	if (len > 0 && buf->data[len - 1] == ',')
		buf->data[buf->len = len - 1] = '\0';
}

/*
 * rehome_rule_repair_json returns the text with what is known to go wrong put
 * right; it need not be JSON yet.
 */
char *
rehome_rule_repair_json(const char *p)
{
	StringInfoData buf;
	StringInfoData open;		/* brackets to be closed */

	initStringInfo(&buf);
	initStringInfo(&open);
	while (*p != '\0')
	{
		if (*p == '"' || *p == '\'')
			p = copy_string(&buf, p);
		else if (strncmp(p, "//", 2) == 0)
			p += strcspn(p, "\n");
		else if (strncmp(p, "/*", 2) == 0)
			p = (p = strstr(p, "*/")) ? p + 2 : "";
		else if (*p == '-' && pg_strncasecmp(p + 1, "infinity", 8) == 0)
			p++;
		else if (isalpha((unsigned char) *p) || *p == '_' || *p == '$' || IS_HIGHBIT_SET(*p))
			p = copy_word(&buf, p);
		else if (isdigit((unsigned char) *p) || *p == '-')
		{
			int			len = 1 + strspn(p + 1, "0123456789.eE+-");

			appendBinaryStringInfo(&buf, p, len);
			p += len;
		}
		else
		{
			if (*p == '{' || *p == '[')
				appendStringInfoChar(&open, *p == '{' ? '}' : ']');
			else if (*p == '}' || *p == ']')
			{
				drop_comma(&buf);
				if (open.len > 0)
					open.data[--open.len] = '\0';
			}
			appendStringInfoChar(&buf, *p++);
		}
	}
	drop_comma(&buf);
	while (open.len > 0)
		appendStringInfoChar(&buf, open.data[--open.len]);
	return buf.data;
}

/*
 * is_json tells whether jsonb would take the text.
 */
static bool
is_json(const char *text)
{
	JsonLexContext *lex = RehomeJsonLex(text, strlen(text), GetDatabaseEncoding());

	return pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
}

PG_FUNCTION_INFO_V1(rehome_rule_json);

/*
 * rehome_rule_json(value text, action text) returns JSON that jsonb takes;
 * action repair or refuse.
 */
Datum
rehome_rule_json(PG_FUNCTION_ARGS)
{
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *repaired = value;

	if (!is_json(value))
	{
		if (strcmp(text_to_cstring(PG_GETARG_TEXT_PP(1)), "repair") == 0)
			repaired = rehome_rule_repair_json(value);
		if (repaired == value || !is_json(repaired))
			rehome_rule_refuse_value("is not JSON", value);
	}
	PG_RETURN_TEXT_P(cstring_to_text(repaired));
}
