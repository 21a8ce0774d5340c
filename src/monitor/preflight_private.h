/*-------------------------------------------------------------------------
 *
 * preflight_private.h
 *	  What preflight.c and preflight_switch.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_PREFLIGHT_PRIVATE_H
#define REHOME_PREFLIGHT_PRIVATE_H

#include "monitor/preflight.h"
#include "util/spi.h"

/* Columns of source_facts.sql. */
enum
{
	FACT_N, FACT_USAGE, FACT_OID, FACT_KIND, FACT_PERSISTENCE, FACT_OWNED, FACT_SELECT, FACT_TRIGGER,
	FACT_WRITE, FACT_ROW_SECURITY, FACT_CHILDREN, FACT_KEY_UNIQUE, FACT_TRIGGERS,
	FACT_UNREADABLE_PARTS, FACT_FOREIGN_PARTS, FACT_MAPPED_PARENT, FACT_SUBSCRIBED
};

/* Columns of rehome_source_columns(). */
enum
{
	COLUMN_NAME, COLUMN_TYPE, COLUMN_REQUIRED, COLUMN_GENERATED
};

/*
 * How values of a column (an alias of pg_attribute) are compared, as SQL for both
 * sides: what begins with '=' are types of which equal values look the same.
 */
#define REHOME_COMPARED_AS(att) \
	"(WITH RECURSIVE base AS (SELECT t.oid, t.typname, t.typtype, t.typbasetype, t.typnamespace FROM pg_type t WHERE t.oid = " att ".atttypid" \
	" UNION ALL SELECT t.oid, t.typname, t.typtype, t.typbasetype, t.typnamespace FROM base JOIN pg_type t ON t.oid = base.typbasetype WHERE base.typtype = 'd')" \
	" SELECT CASE WHEN EXISTS (SELECT FROM pg_collation l WHERE l.oid = " att ".attcollation AND to_jsonb(l) ->> 'collisdeterministic' = 'false')" \
	" THEN base.typname || ' ' || " att ".attcollation" \
	" WHEN base.typtype = 'e' THEN '=' || base.typname" \
	" WHEN base.typnamespace <> 'pg_catalog'::regnamespace THEN base.typname" \
	" WHEN base.typname IN ('int2', 'int4', 'int8') THEN '=int'" \
	" WHEN base.typname IN ('text', 'varchar', 'name') THEN '=text'" \
	" WHEN base.typname IN ('bool', 'oid', 'uuid', 'date', 'time', 'timestamp', 'timestamptz', 'bytea') THEN '=' || base.typname" \
	" ELSE base.typname END FROM base WHERE base.typtype <> 'd')"

extern List *rehome_finding(List *findings, const char *check, const char *severity, const char *object,
							char *detail, char *hint);
extern RehomeRows *rehome_source_keys(RehomeConn *conn, List *maps);
extern char **rehome_source_key(RehomeRows *keys, RehomeTableMap *child, RehomeTableMap *parent,
								List *columns, List *refs);
extern List *rehome_check_keys(List *findings, RehomeConn *conn, RehomeSlice *slice, List *maps);
extern RehomeRows *rehome_source_facts(RehomeConn *conn, List *maps);
extern List *rehome_source_columns(RehomeConn *conn, RehomeRows *facts);
extern List *rehome_check_switch(RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeRows *facts, List *columns);
extern bool rehome_key_is_mapped(RehomeTableMap *map);
extern List *rehome_check_round_trip(List *findings, RehomeSlice *slice, RehomeTableMap *map);

#endif							/* REHOME_PREFLIGHT_PRIVATE_H */
