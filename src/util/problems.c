/*-------------------------------------------------------------------------
 *
 * problems.c
 *	  Collecting everything that is wrong before raising it in one error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "util/problems.h"

void
rehome_problems_init(RehomeProblems *problems)
{
	memset(problems, 0, sizeof(*problems));
	initStringInfo(&problems->text);
}

/*
 * rehome_problem adds one; hint may be NULL.
 */
void
rehome_problem(RehomeProblems *problems, int sqlstate, const char *hint,
			   const char *fmt,...)
{
	va_list		args;
	char		line[2048];

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);

	if (problems->n++ == 0)
		problems->sqlstate = sqlstate;
	if (problems->hint == NULL)
		problems->hint = hint;
	if (problems->text.len > 0)
		appendStringInfoChar(&problems->text, '\n');
	appendStringInfoString(&problems->text, line);
}

/*
 * rehome_problems_raise raises an error with the message given, all problems
 * as its detail and the first one's SQLSTATE; nothing when there are none.
 */
void
rehome_problems_raise(RehomeProblems *problems, const char *fmt,...)
{
	va_list		args;
	char		message[1024];

	if (problems->n == 0)
		return;
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	ereport(ERROR,
			errcode(problems->sqlstate),
			errmsg_internal("%s", message),
			errdetail_internal("%s", problems->text.data),
			problems->hint ? errhint("%s", problems->hint) : 0);
}
