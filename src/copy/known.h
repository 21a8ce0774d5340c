/*-------------------------------------------------------------------------
 *
 * known.h
 *	  Which rows of a table are in quarantine.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_KNOWN_H
#define REHOME_KNOWN_H

#include "copy/sieve.h"

#define REHOME_KNOWN_CHARS 32	/* md5 as text */

/* A row that is in quarantine. */
typedef struct RehomeKnown
{
	char		key[REHOME_KNOWN_CHARS];	/* digest of its key, or of its contents */
	char	   *source_key;		/* as rehome.quarantine has it */
	bool		nameless;		/* a part of its key is null */
	int			seen;			/* so many like it were refused */
} RehomeKnown;

extern HTAB *rehome_known_load(RehomeSieve *sieve);
extern bool rehome_known_any(RehomeSieve *sieve);
extern RehomeKnown *rehome_known_find(RehomeSieve *sieve, Datum *values, bool *nulls);
extern bool rehome_known_nameless(RehomeSieve *sieve, Datum *values, bool *nulls);
extern void rehome_known_release(RehomeSieve *sieve, RehomeKnown *entry);
extern RehomeKnown *rehome_known_refused(RehomeSieve *sieve, Datum *values, bool *nulls, char **source_key);
extern char *rehome_known_contents(RehomeKnown *entry);

#endif							/* REHOME_KNOWN_H */
