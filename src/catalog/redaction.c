/*-------------------------------------------------------------------------
 *
 * redaction.c
 *	  Columns whose values are kept out of our tables.
 *
 * A value is left out when a row is written down, not when it is read: what
 * is not there cannot be dumped.  Whoever writes rows asks here what to leave
 * out, as of now, whatever the snapshot of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/redaction.h"
#include "errors.h"
#include "util/spi.h"
#include "utils/elog.h"
#include "utils/snapmgr.h"

/*
 * rehome_redacted_columns returns the names (char *) of a target's columns
 * whose values are not to be on record.  While one of them is no column of it,
 * that is all but the key: the values may be in another since, by a new name.
 */
List *
rehome_redacted_columns(Oid target)
{
	static SPIPlanPtr plan = NULL;
	RehomeRows *rows;

	PushActiveSnapshot(GetLatestSnapshot());
	rows = rehome_spi_read_kept(&plan, "SELECT array_agg(DISTINCT name) FROM ("
								"SELECT \"column\" FROM rehome.redaction WHERE target = $1"
								" UNION SELECT a.attname FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped"
								" AND EXISTS (SELECT FROM rehome.redaction r WHERE r.target = $1 AND NOT EXISTS"
								"  (SELECT FROM pg_attribute o WHERE o.attrelid = $1 AND o.attname = r.\"column\" AND NOT o.attisdropped))"
								" AND a.attname <> ALL (coalesce((SELECT key FROM rehome.table_map WHERE target = $1 LIMIT 1),"
								"  (SELECT key FROM rehome.derivation WHERE target = $1 AND whole LIMIT 1), '{}'))) AS u(name)", "o", target);
	PopActiveSnapshot();
	return rehome_name_list(rows->value[0][0]);
}

/*
 * may_quote tells whether an error's message may quote values of rows.
 */
static bool
may_quote(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_TRANSACTION_STATE):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OBJECT_IN_USE):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
			return false;
		case ERRCODE_TO_CATEGORY(ERRCODE_REHOME_ILLEGAL_STATE):
			return sqlerrcode == ERRCODE_REHOME_REFUSED;
	}
	return sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE;
}

/*
 * rehome_without_queries leaves out the lines that tell what other sessions run:
 * whoever may read our tables need not have the right to see that.
 */
char *
rehome_without_queries(const char *message)
{
	StringInfoData kept;

	initStringInfo(&kept);
	while (*message != '\0')
	{
		size_t		len = strcspn(message, "\n");

		if (strncmp(message, REHOME_RUNNING_MARK, strlen(REHOME_RUNNING_MARK)) != 0)
		{
			if (kept.len > 0)
				appendStringInfoChar(&kept, '\n');
			appendBinaryStringInfo(&kept, message, len);
		}
		message += len;
		if (*message == '\n')
			message++;
	}
	return kept.data;
}

/*
 * rehome_recorded_message returns what is put on record of an error: its
 * message, unless that may quote a row and the migration redacts a column.
 */
char *
rehome_recorded_message(RehomeMigration *migration, int sqlerrcode, const char *message)
{
	RehomeRows *rows;

	if (!may_quote(sqlerrcode))
		return pstrdup(message);
	PushActiveSnapshot(GetLatestSnapshot());
	rows = rehome_spi_read("SELECT FROM rehome.redaction WHERE migration_id = $1 LIMIT 1", "i", migration->id);
	PopActiveSnapshot();
	return rows->n > 0 ? psprintf(REHOME_REDACTED_MESSAGE " (SQLSTATE %s)", unpack_sql_state(sqlerrcode)) : pstrdup(message);
}
