/*-------------------------------------------------------------------------
 *
 * redaction.h
 *	  Columns whose values are kept out of our tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_REDACTION_H
#define REHOME_REDACTION_H

#include "catalog/migration.h"

/* What is on record in the place of a message that might quote a value. */
#define REHOME_REDACTED_MESSAGE "withheld, as columns are redacted"

extern List *rehome_redacted_columns(Oid target);
extern char *rehome_recorded_message(RehomeMigration *migration, int sqlerrcode, const char *message);
extern char *rehome_without_queries(const char *message);

#endif							/* REHOME_REDACTION_H */
