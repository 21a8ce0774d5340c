/*-------------------------------------------------------------------------
 *
 * query.h
 *	  SQL for a PostgreSQL source: names, columns, positions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_QUERY_H
#define REHOME_QUERY_H

#include "catalog/migration.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "remote/connection.h"

/* A source table as a foreign table of postgres_fdw describes it. */
typedef struct RehomeRemoteTable
{
	char	   *schema;
	char	   *table;
	int			natts;
	char	  **local;			/* by attnum - 1; NULL for a dropped column */
	char	  **remote;
} RehomeRemoteTable;

extern RehomeRemoteTable *rehome_remote_table(Oid foreign_table);
extern const char *rehome_remote_column(RehomeRemoteTable *table, const char *local);
extern char *rehome_remote_relation(RehomeRemoteTable *table);
extern char *rehome_remote_relations(List *maps, bool literal);
extern char *rehome_remote_names(List *maps);
extern void rehome_remote_from(StringInfo sql, RehomeRemoteTable *table,
							   const char *part, bool only);
extern char *rehome_remote_key_array(RehomeTableMap *map, RehomeRemoteTable *table);

extern char *rehome_change_table(RehomeMigration *migration, RehomeTableMap *map);
extern char *rehome_stage_table(RehomeMigration *migration, RehomeTableMap *map);
extern char *rehome_outside_table(RehomeMigration *migration, RehomeTableMap *map);
extern void rehome_changed_keys(StringInfo sql, RehomeMigration *migration, RehomeTableMap *map,
								Bitmapset *spelled, const char *since, List *more, bool gone_only);
extern const char *rehome_source_equal(RehomeTableMap *map, int i);
extern void rehome_join_key(StringInfo sql, RehomeTableMap *map, Bitmapset *spelled,
							const char *row_alias, const char *key_alias);

/* Positions: the text of a txid_snapshot, "xmin:xmax:xip,xip". */
extern char *rehome_position_unseen(const char *position);
extern char *rehome_position_seen(const char *position);
extern int64 rehome_position_xmax(const char *position);
extern bool rehome_position_sees(const char *position, int64 xid);
extern bool rehome_position_covers(const char *position, const char *other);

/* SQL of either side. */
extern void rehome_append_keys(StringInfo sql, int n, Bitmapset *spelled);
extern char *rehome_spelled_alike(const char *a, const char *b);
extern char *rehome_quote_list(List *names, const char *prefix);

#endif							/* REHOME_QUERY_H */
