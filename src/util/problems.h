/*-------------------------------------------------------------------------
 *
 * problems.h
 *	  Collecting everything that is wrong before raising it in one error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_PROBLEMS_H
#define REHOME_PROBLEMS_H

#include "lib/stringinfo.h"

typedef struct RehomeProblems
{
	int			n;
	int			sqlstate;		/* of the first */
	StringInfoData text;		/* a line each */
	const char *hint;			/* of the first that has one */
} RehomeProblems;

extern void rehome_problems_init(RehomeProblems *problems);
extern void rehome_problem(RehomeProblems *problems, int sqlstate, const char *hint,
						   const char *fmt,...) pg_attribute_printf(4, 5);
extern void rehome_problems_raise(RehomeProblems *problems, const char *fmt,...)
			pg_attribute_printf(2, 3);

#endif							/* REHOME_PROBLEMS_H */
