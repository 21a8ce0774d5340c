/*-------------------------------------------------------------------------
 *
 * row_json.h
 *	  Rows as JSON that jsonb takes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_ROW_JSON_H
#define REHOME_ROW_JSON_H

#include "access/tupdesc.h"

extern char *rehome_text_cut(char *text, int bytes);
extern char *rehome_row_json(TupleDesc desc, Datum *values, bool *nulls);
extern char *rehome_record_json(Datum record);

#endif							/* REHOME_ROW_JSON_H */
