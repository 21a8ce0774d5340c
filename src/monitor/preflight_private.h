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

extern List *rehome_finding(List *findings, const char *check, const char *severity, const char *object,
							char *detail, char *hint);
extern RehomeRows *rehome_source_keys(RehomeConn *conn, List *maps);
extern bool rehome_source_has_key(RehomeRows *keys, RehomeTableMap *child, RehomeTableMap *parent,
								  List *columns, List *refs);
extern List *rehome_check_keys(List *findings, RehomeConn *conn, RehomeSlice *slice, List *maps);
extern RehomeRows *rehome_source_facts(RehomeConn *conn, List *maps);
extern List *rehome_source_columns(RehomeConn *conn, RehomeRows *facts);
extern List *rehome_check_switch(RehomeConn *conn, RehomeSlice *slice, List *maps, RehomeRows *facts, List *columns);
extern bool rehome_key_is_mapped(RehomeTableMap *map);
extern List *rehome_check_round_trip(List *findings, RehomeSlice *slice, RehomeTableMap *map);

#endif							/* REHOME_PREFLIGHT_PRIVATE_H */
